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

// firstNext is the user as the first decision leaves him, nil where he is not changed, or
// is gone. No later decision gives him another email or service id.
func (d *decided) firstNext() *actor.User {
	if first := d.decisions[0]; first.Refusal == nil {
		return first.Next
	}
	return nil
}

// decide lets the writes decide on the locked users, and plans the changes. It returns
// the pendings that it did not come to.
// Where a patch gives a user another email or service id, it takes a round trip
// to find out whose those are.
func (g *group) decide(ctx context.Context, conn *pgx.Conn, deadline time.Time) (late []*pending, err error) {
	var all []decided
	var wanted wantedKeys
	for i, p := range g.writes {
		if i > 0 && g.isFull(deadline) {
			late = leaveOut(g.writes[i:])
			break
		}
		if g.repeat(p) {
			continue
		}
		w := p.first()
		before := g.stored[w.UserID]
		var current *actor.User
		if before != nil && w.Refusal() == nil {
			current = &before.user
			if w.NeedsTokens() {
				var err error
				if current, err = before.unseal(g.store.keyring); err != nil {
					g.store.reader.logUnreadable(before.user.ID, err)
					g.plan.fail(p, err)
					continue
				}
			}
		}
		d := decided{pending: p, before: before, current: current}
		g.ask(&d, deadline)
		if next := d.firstNext(); next != nil && current != nil {
			wanted.add(current, next)
		}
		all = append(all, d)
	}

	batch := new(pgx.Batch)
	if wanted.queue(batch, &g.owners); batch.Len() > 0 {
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			return nil, err
		}
	}
	for _, d := range all {
		if next := d.firstNext(); next != nil {
			if what := g.owners.conflict(next); what != "" {
				d.decisions = []actor.Decision{{Refusal: &actor.Refusal{Code: actor.Conflict, Message: what}}} // it was the only one
			} else {
				g.owners.add(next)
			}
		}
		if err := g.plan.add(g.store, d); err != nil {
			return nil, err
		}
	}
	return late, nil
}

// repeat plans the answers to those writes that were done before, as many of the first as
// there are; or says that the first one was not.
func (g *group) repeat(p *pending) bool {
	var rows []outcomeRow
	for _, identity := range p.identities {
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

// ask lets writes to one user decide one after another: all of the pending ones that are
// meant; or less, since some remain by themselves, were done before, or are too much.
func (g *group) ask(d *decided, deadline time.Time) {
	p, current := d.pending, d.current
	if own := time.Now().Add(decideOneFor); own.Before(deadline) {
		deadline = own
	}
	for i, w := range p.writes[:p.part] {
		if _, known := g.known[p.identities[i]]; known || i > 0 && g.isFull(deadline) {
			break
		}
		decision := g.store.ask(w, current)
		alone := isForItself(current, decision)
		if alone && i > 0 {
			break
		}
		d.decisions = append(d.decisions, decision)
		g.weight += w.Size + 2*len(decision.Notification.Body) // the audit has about the same
		if decision.Refusal == nil {
			current = decision.Next
		}
		if alone {
			break
		}
	}
	p.part = len(d.decisions)
	if current != d.current && current != nil {
		g.weight += current.Size()
	}
}

// leaveOut returns writes that are not part of a try after all.
func leaveOut(writes []*pending) []*pending {
	for _, p := range writes {
		p.part = 0
	}
	return writes
}

// isForItself says that a write is not to be committed along with others to its user:
// it could fail, and they with it; or none can follow it.
func isForItself(current *actor.User, d actor.Decision) bool {
	if d.Refusal != nil {
		return d.Refusal.Code == actor.InvocationFailed
	}
	return d.Next == nil || new(wantedKeys).add(current, d.Next)
}

// ask lets a write decide. A write that panics fails alone.
func (s *Store) ask(w *actor.Write, current *actor.User) (d actor.Decision) {
	defer func() {
		if r := recover(); r != nil {
			s.metrics.panics.Inc()
			s.log.Error("panic", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			d = actor.Decision{Refusal: actor.InternalError("the request could not be carried out")}
		}
	}()
	return w.Decide(current, s.reveal)
}
