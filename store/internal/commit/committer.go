package commit

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/store/internal/batch"
	"github.com/glotpod/ident/store/internal/commitstate"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/outbox"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxGroup bounds how many writes are in one transaction. The writes to its last
	// user may exceed it. A larger group would gain little, and would hold the locks
	// of its users for longer.
	maxGroup = 128

	// maxGroupBytes bounds the size of the requests of a group in bytes, in the same
	// way. It also bounds what is written for them, which may be much more. A
	// transaction has to take only a fraction of postgres.AttemptTimeout.
	maxGroupBytes = 256 << 10

	// The pauses of a pending write that other transactions block.
	firstPostponement   = 10 * time.Millisecond
	longestPostponement = 250 * time.Millisecond

	// The pauses between attempts while the database is unreachable.
	firstRetryPause   = 20 * time.Millisecond
	longestRetryPause = time.Second
)

var (
	errBusy    = errors.New("other transactions were in the way for too long")
	errNoLease = errors.New("a write to a user has no lease")
)

// A Config has what a Committer needs.
type Config struct {
	Pool    *postgres.Pool
	Log     *zap.Logger
	Metrics Metrics
	Outbox  *outbox.Outbox
	UserIDs *UserIDs

	Keyring               *keyring.Keyring
	TokensInNotifications bool
	Audited               bool                          // changes are recorded in ident_audit
	LogUnreadable         func(userID int64, err error) // logs that no key opens an access token
	MaxAlone              int                           // how many pending writes are committed alone at a time
	Patience              time.Duration                 // see commitstate.Progress

	Running *sync.WaitGroup // of goroutines that complete pending writes
	Closing context.Context // done when nothing new is to begin
	Working context.Context // done when attempts are to be cancelled
	Stopped <-chan struct{} // closed when the goroutines of Running and of Work have returned
}

// Metrics are the measurements of a Committer.
type Metrics struct {
	Transactions *prometheus.HistogramVec // seconds, by path
	Writes       prometheus.Histogram     // per transaction
	Misses       prometheus.Counter       // transactions whose preconditions did not hold
	Failures     *prometheus.CounterVec   // transactions, by postgres.Class
	Failed       prometheus.Counter       // writes
	Panics       prometheus.Counter       // of writes
}

// The values of the label path: how a group of writes was committed.
const (
	pathKnown = "known" // in one round trip, because all its users were cached
	pathRead  = "read"  // in two or three, because users had to be read
)

// A Committer commits writes in groups. It is safe for concurrent use.
type Committer struct {
	pool     *postgres.Pool
	log      *zap.Logger
	metrics  Metrics
	planner  planner
	decider  decider
	reserved *reservedIDs
	patience time.Duration
	outbox   *outbox.Outbox

	queue     *batch.Batcher[*pending]
	soloSlots chan struct{} // has a value for each pending write that is committed alone
	running   *sync.WaitGroup
	closing   context.Context
	working   context.Context
}

// New returns a committer. It commits nothing until a goroutine runs Work.
func New(config Config) *Committer {
	c := &Committer{
		pool:     config.Pool,
		log:      config.Log,
		metrics:  config.Metrics,
		planner:  planner{keyring: config.Keyring, audited: config.Audited},
		reserved: &config.UserIDs.reserved,
		outbox:   config.Outbox,
		patience: config.Patience,
		decider: decider{
			keyring:               config.Keyring,
			tokensInNotifications: config.TokensInNotifications,
			log:                   config.Log,
			panics:                config.Metrics.Panics,
			logUnreadable:         config.LogUnreadable,
		},
		soloSlots: make(chan struct{}, config.MaxAlone),
		running:   config.Running,
		closing:   config.Closing,
		working:   config.Working,
	}
	c.queue = batch.New(batch.Config[*pending]{
		MaxItems:   maxGroup,
		Weight:     (*pending).weight,
		MaxWeight:  maxGroupBytes,
		Process:    c.commitGroup,
		Discard:    func(p *pending) { p.complete(nil, batch.ErrClosed) },
		OneAtATime: true,
		MustFinish: true,
		Closing:    config.Closing.Done(),
		Stopped:    config.Stopped,
	})
	return c
}

// Work commits groups until Config.Closing is done. Several goroutines may call it.
func (c *Committer) Work() { c.queue.Work() }

// Commit commits the first of the writes to a user, as many as share a transaction, and
// returns their outcomes. When an attempt has begun, Commit waits for its end even if ctx is
// done. A write that is refused whatever is stored belongs to no user and needs no lease.
func (c *Committer) Commit(ctx context.Context, lease partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
	writes = fitTransaction(writes)
	if w := writes[0]; w.Refusal() != nil {
		if writes = writes[:1]; !hasRequestID(w) {
			return []actor.Outcome{{Refusal: w.Refusal()}}, nil
		}
	} else if lease.Epoch == 0 {
		c.logFailure(w, errNoLease)
		return nil, errNoLease
	}
	p := newPending(ctx, lease, writes, c.patience)
	r, err := batch.Submit(ctx, c.queue, p, p.result)
	if err != nil {
		return nil, err
	}
	return r.outcomes, r.err
}

// fitTransaction returns the first writes that are not too large to be committed together.
func fitTransaction(writes []*actor.Write) []*actor.Write {
	size := 0
	for i, w := range writes {
		if size += w.Size; i > 0 && size > maxGroupBytes {
			return writes[:i]
		}
	}
	return writes
}

// commitGroup completes each pending write of the group, or has another goroutine
// complete it later.
func (c *Committer) commitGroup(group []*pending) {
	if cached, uncached := divide(group); len(cached) > 0 && len(uncached) > 0 {
		c.commitGroup(cached)
		c.commitGroup(uncached)
		return
	}
	backoff := wait.Backoff{First: firstRetryPause, Longest: longestRetryPause}
	for {
		group = c.completeAbandoned(group)
		if len(group) == 0 {
			return
		}
		onCached := areCached(group)
		err := c.attempt(group, onCached)
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

// completeAbandoned completes the pending writes whose callers no longer wait, or all of
// them if the store closes. It returns the others.
func (c *Committer) completeAbandoned(group []*pending) []*pending {
	kept := group[:0]
	for _, p := range group {
		err := p.ctx.Err()
		if err == nil && c.closing.Err() != nil {
			err = batch.ErrClosed
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
	class := postgres.Classify(err)
	c.metrics.Failures.WithLabelValues(class.String()).Inc()
	c.logAttempt(group, onCached, class, err)
	for _, p := range group {
		p.attemptResult = resultOf(class)
	}
	return err
}

// resultOf returns the result of an attempt whose transaction failed.
func resultOf(class postgres.Class) commitstate.Result {
	switch class {
	case postgres.Contended:
		return commitstate.Contended
	case postgres.Unknown:
		return commitstate.OutcomeLost
	default:
		return commitstate.Failed
	}
}

// logAttempt logs that an attempt failed, if another one follows it and nothing was
// merely in its way.
func (c *Committer) logAttempt(group []*pending, onCached bool, class postgres.Class, err error) {
	writes := 0
	for _, p := range group {
		writes += p.inAttempt
	}
	message := ""
	switch {
	case class == postgres.Unknown:
		message = "database unreachable, trying again"
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
	p.progress, next = p.progress.After(e)
	switch next {
	case commitstate.Deliver:
		p.complete(p.outcomes, p.err)
	case commitstate.Abandon:
		p.complete(nil, err)
	case commitstate.GiveUp:
		c.giveUp(p, err)
	case commitstate.GiveUpBusy:
		c.giveUp(p, errBusy)
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
	c.running.Go(func() {
		c.soloSlots <- struct{}{}
		defer func() { <-c.soloSlots }()
		c.commitGroup([]*pending{p})
	})
}

// postpone queues a pending write again after a pause.
func (c *Committer) postpone(p *pending) {
	pause := p.backoff.Next()
	c.running.Go(func() {
		wait.For(c.closing, pause) // if the store closes, Put returns an error
		if err := c.queue.Put(p.ctx, p); err != nil {
			c.advance(p, commitstate.Event{Result: commitstate.Abandoned}, err)
		}
	})
}

func (c *Committer) giveUp(p *pending, err error) {
	c.logFailure(p.first(), err)
	p.complete(nil, err)
}

func (c *Committer) logFailure(w *actor.Write, err error) {
	c.metrics.Failed.Inc()
	c.log.Error("write failed", zap.String("operation", w.Operation), zap.Int64("user_id", w.UserID), zap.Error(err))
}
