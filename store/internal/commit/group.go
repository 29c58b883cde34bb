package commit

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/tracelog"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/store/internal/batch"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/commitstate"
	"github.com/glotpod/ident/store/internal/postgres"
)

// commitGroup completes each pending write of the group, or has another goroutine
// complete it later.
func (c *Committer) commitGroup(group []*pending) {
	if cached, uncached := divide(group); len(cached) > 0 && len(uncached) > 0 {
		c.commitGroup(cached)
		c.commitGroup(uncached)
		return
	}
	backoff := wait.Backoff{First: firstAttemptPause, Longest: longestAttemptPause}
	for {
		group = c.completeAbandoned(group)
		group = c.turns.take(group)
		if len(group) == 0 {
			return
		}
		onCached := areCached(group) && !isNextUnknown(group)
		err := c.attempt(group, onCached)
		c.submitAll(c.turns.give(group))
		var pause bool
		if group, pause = c.advanceGroup(group, onCached, err); pause {
			backoff.Wait(c.closing) // if the store closes, the next round completes the group
		}
	}
}

// divide divides a group into the pending writes that can decide on cached users and
// those that cannot, in order.
func divide(group []*pending) (cached, uncached []*pending) {
	for _, p := range group {
		if p.isCached() {
			cached = append(cached, p)
		} else {
			uncached = append(uncached, p)
		}
	}
	return cached, uncached
}

func areCached(group []*pending) bool {
	return !slices.ContainsFunc(group, func(p *pending) bool { return !p.isCached() })
}

// completeAbandoned completes the pending writes that no caller waits for any longer, or whose first
// write has expired, or all of them if the store closes. It returns the others. A write that may have been
// committed does not expire.
func (c *Committer) completeAbandoned(group []*pending) []*pending {
	kept, now := group[:0], time.Now()
	for _, p := range group {
		err := p.ctx.Err()
		switch {
		case err != nil:
		case c.closing.Err() != nil:
			err = batch.ErrClosed
		case p.first().IsExpired(now) && !p.isOutcomeUnknown():
			err = actor.ErrExpired
		}
		if err != nil {
			c.advance(p, commitstate.Event{Result: commitstate.Abandoned}, err)
		} else {
			kept = append(kept, p)
		}
	}
	return kept
}

// attempt attempts once to commit the group. Each pending write then has
// its attemptResult. The error is that of the transaction.
func (c *Committer) attempt(group []*pending, onCached bool) error {
	begun := time.Now()
	setStages(group, stageAttempt)
	for _, p := range group {
		p.beginAttempt(begun)
	}
	attempt, path := c.attemptRead, pathRead
	if onCached {
		attempt, path = c.attemptOnCached, pathKnown
	}
	committed, err := attempt(group)
	if err == nil {
		if committed > 0 {
			c.metrics.Transactions.WithLabelValues(path).Observe(time.Since(begun).Seconds())
			c.metrics.Writes.Observe(float64(committed))
		}
		return nil
	}
	for _, p := range group {
		if p.turn != nil {
			p.turn.nextUnknown = true
		}
	}
	if changelog.IsWrongDay(err) {
		c.days.Forget()
		for _, p := range group {
			p.attemptResult = commitstate.Unsent // it is as if the attempt had not been made
		}
		return err
	}
	class := postgres.Classify(err)
	c.metrics.Failures.WithLabelValues(class.String()).Inc()
	c.logAttempt(group, onCached, class, err)
	for _, p := range group {
		p.attemptResult = resultOf(class)
	}
	return err
}

// resultOf returns the result of an attempt after its transaction failed.
func resultOf(class postgres.Class) commitstate.Result {
	switch class {
	case postgres.Contended:
		return commitstate.Contended
	case postgres.Unknown:
		return commitstate.OutcomeLost
	case postgres.Unsent:
		return commitstate.Unsent
	default:
		return commitstate.Failed
	}
}

// logAttempt logs a failed attempt that another one follows, unless other transactions
// were in the way, or the failure concerns only one of several pending writes.
func (c *Committer) logAttempt(group []*pending, onCached bool, class postgres.Class, err error) {
	writes := 0
	for _, p := range group {
		writes += p.inAttempt
	}
	message := ""
	switch {
	case class == postgres.Unknown:
		message = "database unreachable, trying again"
	case class == postgres.Unsent:
		message = "no database connection, trying again"
	case class == postgres.Failed && onCached:
		message = "commit on cached users failed, reading the users"
	case class == postgres.Failed && len(group) == 1 && writes > 1:
		message = "commit of several writes to a user failed, trying fewer"
	default:
		return
	}
	c.log.Warn(message, zap.Int("writes", writes), zap.Error(err))
}

// advanceGroup carries out what follows an attempt for each pending write of the group.
// It returns those that another attempt follows, and whether a pause is due before it.
func (c *Committer) advanceGroup(group []*pending, onCached bool, err error) (again []*pending, pause bool) {
	e := commitstate.Event{Now: time.Now(), OnCached: onCached, Alone: len(group) == 1}
	again = group[:0]
	for _, p := range group {
		e.Result, e.InAttempt = p.attemptResult, p.inAttempt
		switch c.advance(p, e, err) {
		case commitstate.RetryLater:
			p.stage.reach(stageAgain)
			pause = true
			again = append(again, p)
		case commitstate.Retry:
			again = append(again, p)
		}
	}
	return again, pause
}

// advance has a pending write take its next step after an event, unless that is another
// attempt, which is left to the caller.
func (c *Committer) advance(p *pending, e commitstate.Event, err error) (next commitstate.Action) {
	lost := p.isOutcomeUnknown()
	p.progress, next = p.progress.After(e)
	switch next {
	case commitstate.Deliver:
		p.complete(p.outcomes, p.err)
	case commitstate.Abandon:
		if lost {
			c.followAbandoned(p.lease)
		}
		p.complete(nil, err)
	case commitstate.GiveUp:
		c.giveUp(p, err)
	case commitstate.GiveUpBusy:
		c.giveUp(p, errBusy)
	case commitstate.GiveUpLease:
		c.giveUpLease(p, err)
	case commitstate.CommitAlone:
		c.commitAlone(p)
	case commitstate.Postpone:
		c.postpone(p)
	}
	return next
}

// commitAlone commits a pending write in a transaction of its own, beside the groups. So
// one that cannot be committed, or not soon, does not delay the others.
func (c *Committer) commitAlone(p *pending) {
	p.alone = true
	c.running.Go(func() {
		c.soloSlots <- struct{}{}
		defer func() { <-c.soloSlots }()
		c.commitGroup([]*pending{p})
	})
}

// The pauses of a pending write that other transactions block. Each is twice as long as
// the one before, up to the longest.
const (
	firstPostponement   = 10 * time.Millisecond
	longestPostponement = 250 * time.Millisecond
)

// postpone commits a pending write after a pause.
func (c *Committer) postpone(p *pending) {
	p.stage.reach(stageBlocked)
	pause := p.backoff.Next()
	c.running.Go(func() {
		wait.For(c.closing, pause) // if the store closes, submitAgain completes the pending write
		c.submitAgain(p)
	})
}

// submitAll submits pending writes again that have waited for their turn.
func (c *Committer) submitAll(waiting []*pending) {
	if len(waiting) == 0 {
		return
	}
	c.running.Go(func() {
		for _, p := range waiting {
			c.submitAgain(p)
		}
	})
}

// submitAgain queues a pending write again, unless it has left its group for good.
func (c *Committer) submitAgain(p *pending) {
	if p.alone {
		c.commitAlone(p)
		return
	}
	if err := c.queue.Put(p.ctx, p); err != nil {
		c.advance(p, commitstate.Event{Result: commitstate.Abandoned}, err)
	}
}

func (c *Committer) giveUp(p *pending, err error) {
	c.logFailure(p.first(), err)
	p.complete(nil, err)
}

// giveUpLease gives a pending write up of which an earlier attempt may still be committed.
// Its notification would then be behind those of later writes to the user, if these were
// committed under the same lease. The caller commits no further write of the user.
func (c *Committer) giveUpLease(p *pending, err error) {
	if p.lease.Epoch == 0 { // it writes to no user
		c.giveUp(p, err)
		return
	}
	w := p.first()
	tracelog.With(c.log, w.TraceParent).Warn("outcome of a write unknown, giving its partition up", zap.String("operation", w.Operation),
		zap.Int64("user_id", w.UserID), zap.Int("partition", p.lease.Partition), zap.Error(err))
	p.complete(nil, actor.ErrFenced)
}

func (c *Committer) logFailure(w *actor.Write, err error) {
	c.metrics.Failed.Inc()
	tracelog.With(c.log, w.TraceParent).Error("write failed", zap.String("operation", w.Operation), zap.Int64("user_id", w.UserID), zap.Error(err))
}
