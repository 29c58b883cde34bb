package notify

import (
	"context"
	"errors"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

const (
	// outboxPage is how many notifications are read from the outbox at a time.
	outboxPage = 500

	// maxRefusedCatchUp is how many notifications may be refused while a partition is
	// being taken over. The rest is then held back without being sent, so that a
	// backlog for a full queue does not delay the partition.
	maxRefusedCatchUp = 100

	// retryEvery is how often it is checked whether held-back notifications are due.
	retryEvery = 2 * time.Second

	// overdueEvery is how often the outbox is searched for overdue notifications: those
	// that were committed longer than overdueAge ago and are not pending. This process
	// did not learn of their commits.
	overdueEvery = 10 * time.Second
	overdueAge   = 20 * time.Second

	// outboxTimeout is how long reading a page of the outbox may take.
	outboxTimeout = 2 * time.Second
)

// An Outbox stores the notifications of committed changes.
type Outbox interface {
	// PendingNotifications returns up to limit stored notifications of some partitions, by id
	// from after afterID on, that were committed at least age ago.
	PendingNotifications(ctx context.Context, partitions []int, afterID int64, age time.Duration, limit int) ([]actor.PendingNotification, error)

	// TakeOver returns those of the leases that by holds, and the first stored
	// notifications of the partitions of all leases, by id.
	TakeOver(ctx context.Context, by ownership.Member, leases []partition.Lease, limit int) (held []partition.Lease, left []actor.PendingNotification, err error)

	// ConfirmNotifications deletes notifications, not necessarily at once.
	ConfirmNotifications(ids ...int64)
}

// A catchUp is a call of [Notifier.CatchUp].
type catchUp struct {
	ctx   context.Context
	lease partition.Lease
	done  chan<- error
}

var errLeaseLost = errors.New("the lease is lost")

// CatchUp checks that this instance holds a lease, and then sends the notifications that
// earlier owners of the partition have left in the outbox. It must be called while Run
// runs and before anything is committed under the lease.
func (n *Notifier) CatchUp(ctx context.Context, lease partition.Lease) error {
	done := make(chan error, 1)
	n.catchUps.Put(catchUp{ctx, lease, done})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return amqp.ErrClosed
	}
}

// runCatchUps does the work of CatchUp, for all leases that wait at the same time.
func (n *Notifier) runCatchUps(ctx context.Context) {
	for all := range n.catchUps.Batches(ctx) {
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
				c.done <- errLeaseLost
			} else {
				c.done <- err
			}
		}
	}
}

// takeOver sends the stored notifications of the partitions that this instance holds a
// lease of, and returns these leases. Notifications that are refused or cannot be
// decrypted, and later ones of their users, are held back.
func (n *Notifier) takeOver(ctx context.Context, leases []partition.Lease) (held []partition.Lease, err error) {
	for _, l := range leases {
		// Some may still be pending from an earlier lease of this instance.
		if err := n.Flush(ctx, l.Partition); err != nil {
			return nil, err
		}
	}
	held, page, err := n.o.Outbox.TakeOver(ctx, n.o.Self, leases, outboxPage)
	if err != nil {
		return nil, err
	}
	partitions := []int{}
	for _, l := range held {
		partitions = append(partitions, l.Partition)
	}
	if len(held) < len(leases) {
		if page, err = n.o.Outbox.PendingNotifications(ctx, partitions, 0, 0, outboxPage); err != nil {
			return nil, err
		}
	}
	return held, n.sendStored(ctx, partitions, page)
}

// sendStored sends the stored notifications of some partitions, from a page on.
func (n *Notifier) sendStored(ctx context.Context, partitions []int, page []actor.PendingNotification) (err error) {
	refused := 0
	for len(page) > 0 {
		last := page[len(page)-1].ID
		more, err := n.sendPage(ctx, partitions, page, refused >= maxRefusedCatchUp)
		if err != nil {
			return err
		}
		refused += more
		if page, err = n.o.Outbox.PendingNotifications(ctx, partitions, last, 0, outboxPage); err != nil {
			return err
		}
	}
	return nil
}

// sendPage sends a page of stored notifications, and returns how many were refused. If
// holdBack is true, it holds them back instead.
func (n *Notifier) sendPage(ctx context.Context, partitions []int, page []actor.PendingNotification, holdBack bool) (refused int, err error) {
	var sent []outbound
	for _, x := range page {
		if x.Partition < 0 && !slices.Contains(partitions, partition.Of(x.UserID, n.o.Partitions)) {
			continue
		}
		if holdBack {
			n.heldBack.add(x.UserID, time.Now())
		}
		if n.heldBack.skip(x.UserID) {
			continue
		}
		if x.Body == nil { // it cannot be decrypted; the store has logged that
			n.heldBack.add(x.UserID, time.Now())
			continue
		}
		n.pending.add(x.ID, n.partitionOf(x)) // a page bounds itself
		out := outbound{notification: x}
		if err := n.publish(&out); err != nil {
			return refused, err
		}
		sent = append(sent, out)
	}
	for _, out := range sent {
		accepted, err := n.confirm(ctx, out)
		if err != nil {
			return refused, err
		}
		if !accepted {
			refused++
		}
	}
	return refused, nil
}
