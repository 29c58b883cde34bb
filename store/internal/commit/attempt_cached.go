package commit

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/store/internal/commitstate"
	"github.com/glotpod/ident/store/internal/postgres"
)

// Most writes are to users that this process has cached, because it was the last one to
// read or write them. Then nothing has to be read. The writes decide on the cached users,
// and one round trip does the rest. Its first statement checks the preconditions: what
// those decisions assume. The statements that write do nothing unless the preconditions
// hold. They do not hold if another program has changed a user, a request is a replay, a
// lease has ended, or an email or service id has an owner. Then attemptRead follows.

// attemptOnCached attempts to commit a group of pending writes that can all decide on cached
// users. It returns how many writes it committed with an outcome.
func (c *Committer) attemptOnCached(group []*pending) (committed int, err error) {
	ctx, cancel := context.WithTimeout(c.working, postgres.AttemptTimeout)
	defer cancel()
	tables, err := c.days.Tables(ctx)
	if err != nil {
		return 0, err
	}
	a := c.newAttempt(group, commitstate.Overtaken, tables)
	var required preconditions
	if err := a.decideOnCached(&required); err != nil {
		return 0, err
	}

	hold := false
	batch := new(pgx.Batch)
	a.queueLocks(batch)
	required.queue(batch, tables, &hold)
	a.plan.queue(batch, tables, preconditionsHold)
	var ids []int64
	c.reserved.queue(batch, a.group, &ids)
	err = c.pool.Transact(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return 0, fmt.Errorf("writing to cached users: %w", err)
	}
	for _, id := range ids {
		c.seen.UserID(id)
	}
	c.reserved.put(ids)
	if !hold {
		c.metrics.Misses.Inc()
		for _, p := range a.group {
			p.leaveOut(commitstate.PreconditionMissed)
		}
		return 0, nil
	}
	return c.announce(group, &a.plan), nil
}

// decideOnCached has each write decide on the cached user, or on what the write before it
// has made of the user. It plans the changes and adds what they assume to required. It
// leaves out the pending writes that do not fit, and those that want the same email or
// service id as an earlier one.
func (a *attempt) decideOnCached(required *preconditions) error {
	kept := a.group[:0]
	deadline := time.Now().Add(decideGroupFor)
	for i, p := range a.group {
		if i > 0 && a.isFull(deadline) {
			a.leaveOutRest(i)
			break
		}
		d := decided{pending: p, current: p.first().Cached}
		a.decide(&d, deadline)
		if next := d.firstNext(); next != nil {
			if a.owners.Conflict(next) != nil {
				p.leaveOut(commitstate.Overtaken)
				continue
			}
			a.owners.Add(next)
			required.wanted.Add(d.current, next)
		}
		required.add(d)
		if err := a.plan.add(d); err != nil {
			return err
		}
		kept = append(kept, p)
	}
	a.group = kept
	return nil
}
