package store

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/batch"
	"github.com/glotpod/ident/store/internal/postgres"
)

// maxGroup is the greatest number of writes in one transaction, but for those to the
// last of its users. Beyond it a group gains little, and holds the locks of its users
// for longer.
const maxGroup = 128

// maxGroupBytes bounds the requests of a group in bytes, likewise, and what is written
// for them, which may be much more: a transaction has to be done in a fraction of
// attemptTimeout.
const maxGroupBytes = 256 << 10

// patience is how long a write is tried that other transactions stand in the
// way of. In between it holds no connection. It is also how long after a try of unknown
// outcome a write is tried that fails: by then the server has given that try up, since
// none of its statements may take so long.
const patience = 20 * time.Second

// Pending are writes to one user that wait to be committed, in order. As many of them
// are as can share a transaction; who gave them gives the others again.
type pending struct {
	writes     []*actor.Write    // one at least
	identities []actor.RequestID // the writes', or one made up where it has none
	part       int               // how many of them the try is about that is under way
	lease      partition.Lease
	ctx        context.Context
	since      time.Time // of its first try, as far as others stood in its way
	pause      time.Duration
	unsure     bool      // a try ended without telling whether it was committed
	lost       time.Time // the last one that did
	reread     bool      // what the first write knows of the user, or of others, is not to be relied on
	most       int       // of the writes that a try may be about; less than all since one of more failed
	result     chan result

	// What the Trace of each write is told.
	given  time.Time // to the store; zero where nobody follows any
	begun  time.Time // the last try
	shared int       // writes in the transaction that succeeded
}

// first is the write that is committed in any case, or fails.
func (p *pending) first() *actor.Write { return p.writes[0] }

type result struct {
	outcomes []actor.Outcome
	err      error
}

var (
	errBusy    = errors.New("other transactions stood in the way for too long")
	errNoLease = errors.New("a write to a user without a lease")
)

// Commit implements [actor.Store]. Once a try is under way, it is waited for
// even when ctx is done. What is refused whatever is stored belongs to no user
// and needs no lease.
func (s *Store) Commit(ctx context.Context, lease partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
	p := &pending{writes: fitting(writes), lease: lease, ctx: ctx, result: make(chan result, 1)}
	if w := p.first(); w.Refusal() != nil {
		if p.writes = p.writes[:1]; w.RequestID == (actor.RequestID{}) {
			return []actor.Outcome{{Refusal: w.Refusal()}}, nil
		}
	} else if lease.Epoch == 0 {
		s.giveUp(p, errNoLease)
		return nil, errNoLease
	}
	p.identify()
	p.most = len(p.writes)
	r, err := batch.Submit(ctx, s.writes, p, p.result)
	if err != nil {
		return nil, err
	}
	return r.outcomes, r.err
}

// fitting returns those of the writes that are not too large to be committed together.
func fitting(writes []*actor.Write) []*actor.Write {
	weight := 0
	for i, w := range writes {
		if weight += w.Size; i > 0 && weight > maxGroupBytes {
			return writes[:i]
		}
	}
	return writes
}

// mayLand says that an earlier try may still be committed.
func (p *pending) mayLand() bool { return p.unsure && time.Since(p.lost) < patience }

// identify gives an identity to each write.
func (p *pending) identify() {
	p.identities = make([]actor.RequestID, len(p.writes))
	for i, w := range p.writes {
		if p.identities[i] = w.RequestID; w.RequestID == (actor.RequestID{}) {
			rand.Read(p.identities[i][:]) // never fails
		}
		if w.Trace != nil && p.given.IsZero() {
			p.given = time.Now()
		}
	}
}

// weight is what the writes weigh in a group. A small one weighs as much as one of the
// size at which the bound in bytes and that in writes are the same.
func (p *pending) weight() (n int) {
	for _, w := range p.writes {
		n += max(w.Size, maxGroupBytes/maxGroup)
	}
	return n
}

// finish tells what became of the first of the writes, as many as there are outcomes;
// or that nothing did, and why the first one has failed.
func (p *pending) finish(outcomes []actor.Outcome, err error) {
	for _, w := range p.writes[:max(1, len(outcomes))] {
		if w.Trace != nil {
			w.Trace.Committed(p.given, p.begun, p.shared, err)
		}
	}
	p.result <- result{outcomes, err}
}

func (s *Store) batchWrites() *batch.Batcher[*pending] {
	return batch.New(batch.Config[*pending]{
		MaxItems:   maxGroup,
		Weight:     (*pending).weight,
		MaxWeight:  maxGroupBytes,
		Process:    s.commitGroup,
		Discard:    func(p *pending) { p.finish(nil, batch.ErrClosed) },
		OneAtATime: true,
		MustFinish: true,
		Closing:    s.ctx.Done(),
		Stopped:    s.stopped,
	})
}

// commitGroup sees to it that each write of the group is finished, now or
// later, by another goroutine.
func (s *Store) commitGroup(group []*pending) {
	if known, rest := divide(group); len(known) > 0 && len(rest) > 0 {
		s.commitGroup(known)
		s.commitGroup(rest)
		return
	}
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		group = s.abandon(group)
		if len(group) == 0 {
			return
		}
		try, path, known := s.tryGroup, pathRead, !slices.ContainsFunc(group, (*pending).isNotKnown)
		if known {
			try, path = s.tryKnown, pathKnown
		}
		begun := time.Now()
		for _, p := range group {
			p.begun = begun
		}
		done, again, err := try(group)
		if err == nil {
			if done > 0 {
				s.metrics.committed(path, done, time.Since(begun))
			}
			group = again
			continue
		}
		class := postgres.Classify(err)
		s.metrics.failures.WithLabelValues(class.String()).Inc()
		writes := 0
		for _, p := range group {
			writes += p.part
			if p.reread = true; p.part > 1 && class != postgres.Contended {
				p.most = p.part / 2 // so the one that fails is found in a few tries
			}
		}
		if class == postgres.Unknown {
			s.log.Warn("database out of reach, trying again", zap.Int("writes", writes), zap.Error(err))
			for _, p := range group {
				if p.part > 0 {
					p.unsure, p.lost = true, time.Now()
				}
			}
		}
		switch {
		case known && class == postgres.Failed:
			s.log.Warn("writes to users who are known failed, reading them first", zap.Int("writes", writes), zap.Error(err))
			continue
		case known && class == postgres.Contended:
			continue
		case len(group) > 1:
			// The one that cannot be committed, or not in time, is to hold up
			// no other.
			for _, p := range group {
				s.commitAlone(p)
			}
			return
		case class == postgres.Failed && group[0].part > 1:
			s.log.Warn("writes to a user failed, trying fewer of them", zap.Int("writes", writes), zap.Error(err))
			continue
		case class == postgres.Contended:
			s.postpone(group[0])
			return
		case class == postgres.Failed && !group[0].mayLand():
			s.giveUp(group[0], err)
			return
		}
		s.sleep(pause)
	}
}

// divide divides writes into those that are known and the rest, in order.
func divide(group []*pending) (known, rest []*pending) {
	for _, p := range group {
		if p.isNotKnown() {
			rest = append(rest, p)
		} else {
			known = append(known, p)
		}
	}
	return known, rest
}

// commitAlone commits writes to one user without others', beside the groups.
func (s *Store) commitAlone(p *pending) {
	s.running.Go(func() {
		s.singles <- struct{}{}
		defer func() { <-s.singles }()
		s.commitGroup([]*pending{p})
	})
}

// postpone has a write tried again later, since another transaction stands in
// its way, and gives it up when that has lasted too long.
func (s *Store) postpone(p *pending) {
	if p.since.IsZero() {
		p.since, p.pause = time.Now(), 5*time.Millisecond
	}
	if time.Since(p.since) > patience && !p.mayLand() {
		s.giveUp(p, errBusy)
		return
	}
	p.pause = min(2*p.pause, 250*time.Millisecond)
	s.running.Go(func() {
		s.sleep(p.pause)
		if err := s.writes.Put(p.ctx, p); err != nil {
			p.finish(nil, err)
		}
	})
}

func (s *Store) giveUp(p *pending, err error) {
	s.metrics.failed.Inc()
	s.log.Error("write failed", zap.String("operation", p.first().Operation), zap.Int64("user_id", p.first().UserID), zap.Error(err))
	p.finish(nil, err)
}

// abandon finishes the writes that nobody waits for any more, all of them when
// the store closes, and returns the others.
func (s *Store) abandon(group []*pending) []*pending {
	kept := group[:0]
	for _, p := range group {
		switch {
		case p.ctx.Err() != nil:
			p.finish(nil, p.ctx.Err())
		case s.ctx.Err() != nil:
			p.finish(nil, batch.ErrClosed)
		default:
			kept = append(kept, p)
		}
	}
	return kept
}

// sleep waits for d, or until the store closes.
func (s *Store) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
}
