package notify

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

const (
	// maxPending is how many notifications may be pending. Then commits wait.
	maxPending = 1024

	// maxPendingBytes is the same in bytes of their bodies.
	maxPendingBytes = 16 << 20
)

// Metrics are what a Notifier counts and measures.
type Metrics struct {
	Sent    prometheus.Counter   // notifications that the broker has accepted
	Refused prometheus.Counter   // notifications that the broker has refused
	Lag     prometheus.Histogram // seconds from a commit to the broker's confirmation
	Overdue prometheus.Gauge     // notifications in the outbox for longer than they should
}

// Options say what a Notifier sends and how.
type Options struct {
	Self       ownership.Member
	Outbox     Outbox
	Partitions int

	// Owns reports whether this instance sends the notifications of a partition.
	Owns func(partition int) bool

	Metrics Metrics
	Tracer  trace.Tracer // nil: no tracing
	Log     *zap.Logger
}

// A Notifier sends notifications over one channel. Its methods are safe for concurrent
// use.
type Notifier struct {
	o        Options
	channel  Channel
	queue    chan outbound // to be published
	catchUps *batchqueue.Queue[catchUp]
	bytes    *semaphore.Weighted // of the bodies of pending notifications
	pending  pending
	heldBack heldBack

	finishing chan struct{} // closed when Send will not be called again

	ctx    context.Context // done when Run has ended
	cancel context.CancelFunc
}

// An outbound notification is one on its way to the broker.
type outbound struct {
	notification actor.PendingNotification
	committed    time.Time // zero if it was read from the outbox
	confirmation Confirmation
}

// New returns a Notifier that sends nothing before Run is called.
func New(channel Channel, o Options) *Notifier {
	n := &Notifier{
		o:         o,
		channel:   channel,
		queue:     make(chan outbound, maxPending),
		catchUps:  batchqueue.New[catchUp](),
		bytes:     semaphore.NewWeighted(maxPendingBytes),
		pending:   newPending(),
		heldBack:  newHeldBack(),
		finishing: make(chan struct{}),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// Send sends the notification of a change that was committed. It blocks while too many
// are pending. After Run has ended it returns at once: the notification stays in the
// outbox.
func (n *Notifier) Send(x actor.PendingNotification) {
	out := outbound{notification: x, committed: time.Now()}
	if n.bytes.Acquire(n.ctx, weight(x)) != nil {
		return
	}
	n.pending.add(x.ID, n.partitionOf(x))
	select {
	case n.queue <- out:
	case <-n.ctx.Done():
	}
}

// Flush waits until no notification of a partition is pending.
func (n *Notifier) Flush(ctx context.Context, partition int) error {
	drained := n.pending.drained(partition)
	if drained == nil {
		return nil
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return amqp.ErrClosed
	}
}

// Backlog returns the number of pending notifications, and the number of users with
// notifications that are held back.
func (n *Notifier) Backlog() (pending, heldBackUsers int) {
	return n.pending.len(), n.heldBack.len()
}

// Finish waits until all pending notifications are confirmed, or ctx is done. Send must
// not be called afterwards.
func (n *Notifier) Finish(ctx context.Context) {
	close(n.finishing)
	select {
	case <-n.ctx.Done():
	case <-ctx.Done():
	}
}

// Run sends notifications until ctx is done, the channel is closed, or everything is
// confirmed after Finish was called.
func (n *Notifier) Run(ctx context.Context) {
	unconfirmed := make(chan outbound, maxPending)
	var confirming, background sync.WaitGroup
	defer background.Wait()
	defer n.cancel()
	defer confirming.Wait()
	defer close(unconfirmed)
	confirming.Go(func() { n.confirmAll(ctx, unconfirmed) })
	background.Go(func() { n.runCatchUps(n.ctx) })
	background.Go(func() { n.sweepOutbox(n.ctx) })

	for {
		select {
		case out := <-n.queue:
			if !n.forward(ctx, out, unconfirmed) {
				return
			}
		case <-n.finishing:
			for len(n.queue) > 0 {
				if !n.forward(ctx, <-n.queue, unconfirmed) {
					return
				}
			}
			return
		case <-ctx.Done():
			return
		}
	}
}

// forward publishes a notification and passes it on to unconfirmed, unless it is held
// back. It returns false when no more can be sent.
func (n *Notifier) forward(ctx context.Context, out outbound, unconfirmed chan<- outbound) bool {
	if n.heldBack.skip(out.notification.UserID) {
		n.bytes.Release(weight(out.notification))
		n.removePending(out.notification)
		return true
	}
	if n.publish(&out) != nil {
		return false // the channel is closed, which ends the session
	}
	select {
	case unconfirmed <- out:
		return true
	case <-ctx.Done():
		return false
	}
}

// confirmAll waits for the confirmations of notifications, in the order in which they
// were published. After an error, the others stay in the outbox as well.
func (n *Notifier) confirmAll(ctx context.Context, unconfirmed <-chan outbound) {
	for out := range unconfirmed {
		_, err := n.confirm(ctx, out)
		n.bytes.Release(weight(out.notification))
		if err != nil {
			return
		}
	}
}

// confirm waits for the confirmation of a pending notification and, if the broker has
// accepted it, has it deleted from the outbox. It stays there if an earlier one of the
// user is held back: it has to be sent again after that one.
func (n *Notifier) confirm(ctx context.Context, out outbound) (accepted bool, err error) {
	defer n.removePending(out.notification)
	if accepted, err = n.awaitConfirmation(ctx, out); err != nil {
		return false, err
	}
	if accepted && !n.heldBack.has(out.notification.UserID) {
		n.o.Outbox.ConfirmNotifications(out.notification.ID)
	}
	return accepted, nil
}

// awaitConfirmation waits for the broker's decision. If the broker refuses the
// notification, those of its user are held back from now on.
func (n *Notifier) awaitConfirmation(ctx context.Context, out outbound) (accepted bool, err error) {
	accepted, err = out.confirmation.WaitContext(ctx)
	switch {
	case err != nil:
		return false, err
	case !accepted && n.channel.IsClosed():
		return false, amqp.ErrClosed
	case accepted:
		n.o.Metrics.Sent.Inc()
		if !out.committed.IsZero() {
			n.o.Metrics.Lag.Observe(time.Since(out.committed).Seconds())
		}
		return true, nil
	}
	n.o.Metrics.Refused.Inc()
	user := out.notification.UserID
	if !n.heldBack.has(user) && n.heldBack.add(user, time.Now()) {
		n.o.Log.Warn("a subscriber's queue refuses notifications; those of the users concerned are held back",
			zap.Int64("id", out.notification.ID), zap.Int64("user_id", user))
	}
	return false, nil
}

func (n *Notifier) removePending(x actor.PendingNotification) {
	n.pending.remove(x.ID, n.partitionOf(x))
}

// partitionOf returns the partition of a notification. Old rows of the outbox do not
// have it.
func (n *Notifier) partitionOf(x actor.PendingNotification) int {
	if x.Partition >= 0 {
		return x.Partition
	}
	return partition.Of(x.UserID, n.o.Partitions)
}

// weight returns what a notification counts against maxPendingBytes. One that is larger
// than that is sent alone.
func weight(x actor.PendingNotification) int64 { return min(int64(len(x.Body)), maxPendingBytes) }
