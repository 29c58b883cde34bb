package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
)

// A catchUp is a partition that is taken over, and whose notifications in the outbox
// are to be sent.
type catchUp struct {
	ctx   context.Context
	lease partition.Lease
	done  chan error
}

var errLeaseOver = errors.New("the lease is over")

// catchUp sends what earlier owners of a partition have left in the outbox, if the
// lease holds. It is to be called while run runs, and nothing is committed in the
// partition.
func (n *notifier) catchUp(ctx context.Context, lease partition.Lease) error {
	done := make(chan error, 1)
	n.catching.Put(catchUp{ctx, lease, done})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return amqp.ErrClosed
	}
}

// catchUpAll does what catchUp asks for, for all partitions that wait at a time.
func (n *notifier) catchUpAll(ctx context.Context) {
	for all := range n.catching.Batches(ctx) {
		var batch []catchUp
		var leases []partition.Lease
		for _, c := range all {
			if c.ctx.Err() == nil {
				batch, leases = append(batch, c), append(leases, c.lease)
			}
		}
		if len(batch) == 0 {
			continue
		}
		held, err := n.takeOver(ctx, leases)
		for _, c := range batch {
			if err == nil && !slices.Contains(held, c.lease) {
				c.done <- errLeaseOver
			} else {
				c.done <- err
			}
		}
	}
}

// takeOver sends what the outbox has of the partitions of those leases that are really
// this instance's, which it returns. What is refused or cannot be read, and what follows it, is
// left there: nobody is to wait for that.
func (n *notifier) takeOver(ctx context.Context, leases []partition.Lease) (held []partition.Lease, err error) {
	for _, l := range leases {
		if err := n.flush(ctx, l.Partition); err != nil { // of an earlier lease of ours
			return nil, err
		}
	}
	held, page, err := n.store.TakeOver(ctx, n.self, leases, catchUpPage)
	if err != nil {
		return nil, err
	}
	partitions := []int{}
	for _, l := range held {
		partitions = append(partitions, l.Partition)
	}
	if len(held) < len(leases) {
		if page, err = n.store.PendingNotifications(ctx, partitions, 0, 0, catchUpPage); err != nil {
			return nil, err
		}
	}
	return held, n.sendStored(ctx, partitions, page)
}

// sendStored sends what the outbox has of some partitions, from a page on.
func (n *notifier) sendStored(ctx context.Context, partitions []int, page []actor.PendingNotification) (err error) {
	var last int64
	refused := 0
	for len(page) > 0 {
		var all []sent
		for _, x := range page {
			last = x.ID
			if x.Partition < 0 && !slices.Contains(partitions, n.of(x.UserID)) {
				continue
			}
			if refused >= catchUpRefused {
				n.setRefused(x.UserID)
			}
			if n.skips(x.UserID) {
				continue
			}
			if x.Body == nil { // no key opens it, which has been logged
				n.setRefused(x.UserID)
				continue
			}
			n.note(x) // a page is bounded by itself
			s := sent{PendingNotification: x}
			if err := n.publish(&s); err != nil {
				return err
			}
			all = append(all, s)
		}
		for _, s := range all {
			taken, err := n.confirm(ctx, s)
			if err != nil {
				return err
			}
			if !taken {
				refused++
			}
		}
		if page, err = n.store.PendingNotifications(ctx, partitions, last, 0, catchUpPage); err != nil {
			return err
		}
	}
	return nil
}

// setRefused has a user's notifications left to the outbox. It returns whether
// this is the first user.
func (n *notifier) setRefused(user int64) (first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	first = len(n.refused) == 0
	n.refused.add(user, time.Now())
	return first
}

// holdBack has those notifications left to the outbox that are of the user of x, which
// cannot be read.
func (n *notifier) holdBack(x actor.PendingNotification) {
	if n.holds(n.partitionOf(x)) && !n.isRefused(x.UserID) {
		n.setRefused(x.UserID)
	}
}

func (n *notifier) isRefused(user int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refused[user] != nil
}

// skips is isRefused, and counts what is left to the outbox because of it.
func (n *notifier) skips(user int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.refused[user]
	if r == nil {
		return false
	}
	r.left++
	return true
}

// sweepAll looks after what is in the outbox, until ctx is done.
func (n *notifier) sweepAll(ctx context.Context) {
	refused, overdue := time.NewTicker(refusedEvery), time.NewTicker(overdueEvery)
	defer refused.Stop()
	defer overdue.Stop()
	defer n.metrics.overdue.Set(0) // whoever holds the partitions next, counts
	for {
		var err error
		select {
		case <-refused.C:
			err = n.retryRefused(ctx)
		case <-overdue.C:
			overdue := 0
			var f *found
			f, err = n.sweep(ctx, overdueAge, func(user int64) bool {
				overdue++
				return !n.isRefused(user) // who is tried at another pace
			})
			if f != nil {
				n.metrics.overdue.Set(float64(overdue))
			}
		case <-ctx.Done():
			return
		}
		if err != nil {
			return // the channel is closed, and the session learns of it
		}
	}
}

// retryRefused sends what is held back, of users whose time has come.
func (n *notifier) retryRefused(ctx context.Context) error {
	n.mu.Lock()
	due := n.refused.due(time.Now())
	n.mu.Unlock()
	if len(due) == 0 {
		return nil
	}
	f, err := n.sweep(ctx, 0, func(user int64) bool {
		_, ok := due[user]
		return ok
	})
	if err != nil || f == nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refused.tried(due, f, time.Now())
	return nil
}

// found is what a sweep has come upon.
type found struct {
	refused map[int64]bool // by users of whom there was a notification: whether one was refused, or cannot be read
	taken   int            // notifications
}

// sweep sends notifications from the outbox that are of certain users, of a
// certain age, and not on their way, one at a time, such that none of a user
// overtakes another, or one that cannot be read. It returns nil where it could not
// read all of the outbox. An error is about the channel.
func (n *notifier) sweep(ctx context.Context, age time.Duration, of func(user int64) bool) (*found, error) {
	f := &found{refused: make(map[int64]bool)}
	var last int64
	for {
		page, err := n.stored(ctx, last, age)
		if err != nil {
			return nil, nil // the database is out of reach: later
		}
		if len(page) == 0 {
			return f, nil
		}
		for _, x := range page {
			last = x.ID
			if !of(x.UserID) || f.refused[x.UserID] {
				continue
			}
			f.refused[x.UserID] = false
			if n.isPending(x.ID) {
				continue
			}
			if x.Body == nil { // no key opens it, which has been logged
				n.holdBack(x)
				f.refused[x.UserID] = true
				continue
			}
			taken, held, err := n.resend(ctx, x)
			if err != nil {
				return nil, err
			}
			if !held {
				continue
			}
			if taken {
				n.store.ConfirmNotifications(x.ID)
				f.taken++
			} else {
				f.refused[x.UserID] = true
			}
		}
	}
}

// resend sends one notification from the outbox, if its partition is held, and
// waits for the broker's word.
func (n *notifier) resend(ctx context.Context, x actor.PendingNotification) (taken, held bool, err error) {
	n.note(x)
	defer n.unnote(x)
	if !n.holds(n.partitionOf(x)) { // asked after that, lest flush misses x
		return false, false, nil
	}
	s := sent{PendingNotification: x}
	if err := n.publish(&s); err != nil {
		return false, true, err
	}
	taken, err = n.await(ctx, s)
	return taken, true, err
}

func (n *notifier) stored(ctx context.Context, last int64, age time.Duration) ([]actor.PendingNotification, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return n.store.PendingNotifications(ctx, n.held(), last, age, catchUpPage)
}
