package store

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
)

// Decided writes wait for nothing but the check for conflicts.
type decided struct {
	pending   *pending
	before    *storedUser      // nil: nobody, or somebody who was not read
	current   *actor.User      // before, with access tokens if the write needs them
	decisions []actor.Decision // of the first of the pending writes, one after another
}

// decide lets the first write of each pending decide on the locked users, and plans the
// changes. It returns the writes that it did not come to before the deadline.
// Where a patch gives a user another email or service id, it takes a round trip
// to find out whose those are.
func (g *group) decide(ctx context.Context, conn *pgx.Conn, deadline time.Time) (late []*pending, err error) {
	var all []decided
	var wanted wanted
	for i, p := range g.writes {
		if i > 0 && time.Now().After(deadline) {
			late = g.writes[i:]
			break
		}
		if g.repeat(p) {
			continue
		}
		w := p.first()
		before := g.stored[w.UserID]
		var current *actor.User
		if before != nil && w.Refused() == nil {
			current = &before.user
			if w.NeedsTokens() {
				var err error
				if current, err = g.store.unseal(before); err != nil {
					g.store.logSealed(before.user.ID, err)
					g.plan.fail(p, err)
					continue
				}
			}
		}
		d := g.store.ask(w, current)
		if d.Refusal == nil && d.Next != nil && current != nil {
			wanted.add(current, d.Next)
		}
		all = append(all, decided{p, before, current, []actor.Decision{d}})
	}

	batch := new(pgx.Batch)
	if wanted.queue(batch, &g.taken); batch.Len() > 0 {
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			return nil, err
		}
	}
	for _, d := range all {
		if next := d.decisions[0].Next; d.decisions[0].Refusal == nil && next != nil {
			if what := g.taken.conflict(next); what != "" {
				d.decisions[0] = actor.Decision{Refusal: &actor.Refusal{Code: actor.Conflict, Message: what}}
			} else {
				g.taken.take(next)
			}
		}
		if err := g.plan.add(g.store, d); err != nil {
			return nil, err
		}
	}
	return late, nil
}

// repeat plans the answers to those writes that were done before: the first one; or, as
// an earlier try may have committed several, as many of the first as there are.
func (g *group) repeat(p *pending) bool {
	most := 1
	if p.unsure {
		most = len(p.writes)
	}
	var rows []outcomeRow
	for _, identity := range p.identities[:most] {
		row, known := g.known[identity]
		if !known {
			break
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return false
	}
	g.plan.repeat(p, rows, g.good(p.lease))
	return true
}

// ask lets a write decide. A write that panics fails alone.
func (s *Store) ask(w *actor.Write, current *actor.User) (d actor.Decision) {
	defer func() {
		if r := recover(); r != nil {
			s.metrics.panics.Inc()
			s.log.Error("panic", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			d = actor.Decision{Refusal: actor.Failed("the request could not be carried out")}
		}
	}()
	return w.Decide(current, s.reveal)
}

// unseal returns a stored user with its access tokens.
func (s *Store) unseal(stored *storedUser) (*actor.User, error) {
	user := stored.user
	for i, service := range services {
		account := accountOf(&user, service)
		if *account == nil {
			continue
		}
		token, err := s.keyring.open(stored.tokens[i])
		if err != nil {
			return nil, err
		}
		*account = &actor.Account{ID: (*account).ID, AccessToken: string(token)}
	}
	return &user, nil
}
