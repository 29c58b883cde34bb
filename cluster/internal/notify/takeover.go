package notify

import (
	"context"
	"errors"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
)

// A takeOver is a call of [Notifier.TakeOver].
type takeOver struct {
	ctx   context.Context
	lease partition.Lease
	done  chan<- error
}

var errLeaseLost = errors.New("the lease is lost")

// TakeOver checks that this instance holds a lease, and begins to send the notifications
// of the partition, first those that earlier owners have left in the log. It does not
// wait until these are sent. It must be called while Run runs and before anything is
// committed under the lease.
func (n *Notifier) TakeOver(ctx context.Context, lease partition.Lease) error {
	done := make(chan error, 1)
	n.takeOvers.Put(takeOver{ctx, lease, done})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return amqp.ErrClosed
	}
}

// runTakeOvers does the work of TakeOver, for all leases that wait at the same time.
func (n *Notifier) runTakeOvers(ctx context.Context) {
	for all := range n.takeOvers.Batches(ctx) {
		var leases []partition.Lease
		all = slices.DeleteFunc(all, func(t takeOver) bool { return t.ctx.Err() != nil })
		for _, t := range all {
			leases = append(leases, t.lease)
		}
		if len(all) == 0 {
			continue
		}
		taken, err := n.o.Outbox.TakeOver(ctx, n.o.Self, leases)
		for _, t := range all {
			i := slices.IndexFunc(taken, func(o actor.TakenOver) bool { return o.Lease == t.lease })
			switch {
			case err != nil:
				t.done <- err
			case i < 0:
				t.done <- errLeaseLost
			default:
				n.openLane(&taken[i])
				t.done <- nil
			}
		}
	}
}

// openLane begins to send the notifications of a partition.
func (n *Notifier) openLane(t *actor.TakenOver) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &n.state.lanes[t.Lease.Partition]
	n.state.forgetLane(l)
	l.open, l.lease, l.held = true, t.Lease, make(map[int64]*heldUser)
	l.last, l.reported = t.Notified, t.Notified
	for user, position := range t.HeldBack {
		l.held[user] = &heldUser{from: position, first: noPosition}
	}
	n.state.heldBack += len(l.held)
	l.looked = noPosition
	if t.HasLater {
		n.state.fallBehind(l, t.Notified+1)
	}
	if l.behind || len(l.held) > 0 {
		l.looked = 0
		n.state.setDue(l, true)
	}
}

// Release sends nothing more of a partition, and waits until none of its notifications is
// pending, for a second at most. Nothing may be committed under the lease any more.
func (n *Notifier) Release(ctx context.Context, lease partition.Lease) error {
	timeout := time.NewTimer(releaseTimeout)
	defer timeout.Stop()
	select {
	case <-n.stop(lease):
		return nil
	case <-timeout.C: // the next owner finds them in the log
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return amqp.ErrClosed
	}
}

// stop stops the pass of a lane, and returns a channel that is closed when nothing of it is
// pending.
func (n *Notifier) stop(lease partition.Lease) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &n.state.lanes[lease.Partition]
	if l.lease == lease {
		n.state.closeLane(l)
	}
	if l.pending == 0 {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	if l.drained == nil {
		l.drained = make(chan struct{})
	}
	return l.drained
}

// Abandon sends nothing more of a partition, unless it was taken over under another lease.
func (n *Notifier) Abandon(lease partition.Lease) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := &n.state.lanes[lease.Partition]; l.lease == lease {
		n.state.forgetLane(l)
	}
}
