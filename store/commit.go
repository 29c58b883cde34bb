package store

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
)

// maxGroup is the greatest number of writes in one transaction. Beyond it a
// group gains little, and holds the locks of its users for longer.
const maxGroup = 128

// maxTries bounds how often a write is tried that meets contention each time.
const maxTries = 10

// A pending write waits to be committed.
type pending struct {
	write    *actor.Write
	identity actor.Identity // the write's, or one made up where it has none
	ctx      context.Context
	tries    int
	unsure   bool // a try ended without telling whether it was committed
	result   chan result
}

type result struct {
	outcome actor.Outcome
	err     error
}

var errClosed = errors.New("the store is closed")

// Commit implements [actor.Store]. Once a try is under way, it is waited for
// even when ctx is done.
func (s *Store) Commit(ctx context.Context, w *actor.Write) (actor.Outcome, error) {
	p := &pending{write: w, identity: w.Identity, ctx: ctx, result: make(chan result, 1)}
	if p.identity == (actor.Identity{}) {
		if w.Refused() != nil {
			return actor.Outcome{Refusal: w.Refused()}, nil
		}
		rand.Read(p.identity[:]) // never fails
	}
	select {
	case s.writes <- p:
	case <-ctx.Done():
		return actor.Outcome{}, ctx.Err()
	case <-s.ctx.Done():
		return actor.Outcome{}, errClosed
	}
	r := <-p.result
	return r.outcome, r.err
}

func (p *pending) finish(o actor.Outcome, err error) { p.result <- result{o, err} }

// commitGroups commits what waits, until the store closes.
func (s *Store) commitGroups() {
	gather(s.ctx, s.writes, maxGroup, s.commitGroup, func(p *pending) { p.finish(actor.Outcome{}, errClosed) })
}

// commitGroup sees to it that each write of the group is finished, here or, in
// a transaction of its own, by another goroutine.
func (s *Store) commitGroup(group []*pending) {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		group = s.abandon(group)
		if len(group) == 0 {
			return
		}
		again, err := s.tryGroup(group)
		if err == nil {
			group = again
			continue
		}
		class := classify(err)
		switch {
		case class == unknown:
			s.log.Warn("database out of reach, trying again", zap.Int("writes", len(group)), zap.Error(err))
			for _, p := range group {
				p.unsure = true
			}
		case len(group) > 1:
			s.commitSingly(group)
			return
		case class == contended && group[0].tries < maxTries:
			group[0].tries++
		default:
			w := group[0].write
			s.log.Error("write failed", zap.String("operation", w.Operation), zap.Int64("user_id", w.UserID), zap.Error(err))
			group[0].finish(actor.Outcome{}, err)
			return
		}
		s.sleep(pause)
	}
}

// abandon finishes the writes that nobody waits for any more, all of them when
// the store closes, and returns the others.
func (s *Store) abandon(group []*pending) []*pending {
	kept := group[:0]
	for _, p := range group {
		switch {
		case p.ctx.Err() != nil:
			p.finish(actor.Outcome{}, p.ctx.Err())
		case s.ctx.Err() != nil:
			p.finish(actor.Outcome{}, errClosed)
		default:
			kept = append(kept, p)
		}
	}
	return kept
}

// commitSingly commits each write of a group that failed in a transaction of
// its own, so that the one which cannot be committed holds up no other.
func (s *Store) commitSingly(group []*pending) {
	for _, p := range group {
		s.singles <- struct{}{}
		s.running.Go(func() {
			defer func() { <-s.singles }()
			s.commitGroup([]*pending{p})
		})
	}
}

// sleep waits for d, or until the store closes.
func (s *Store) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
}
