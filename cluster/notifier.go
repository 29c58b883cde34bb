package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/glotpod/ident/actor"
)

const (
	// unconfirmedLimit is how many notifications are sent ahead of the
	// broker's confirmations. Then commits wait.
	unconfirmedLimit = 1024

	// unconfirmedBytes bounds the same in bytes.
	unconfirmedBytes = 16 << 20

	catchUpPage = 500

	// A notification that has been stored for longer than overdueAge, and is
	// not on its way, was committed without this process learning of it.
	overdueEvery = 10 * time.Second
	overdueAge   = 20 * time.Second

	// nackPause is how long to wait before sending a notification again that a
	// subscriber's queue has refused.
	nackPause = time.Second
)

// A notifier sends notifications over a channel of its own, in the order in
// which they are given to it, and has those forgotten that the broker confirms.
type notifier struct {
	channel *amqp.Channel
	closed  chan *amqp.Error // the channel's end
	store   Store
	log     *zap.Logger

	queue    chan actor.Notification
	bytes    *semaphore.Weighted // of what is in pending
	flushing chan struct{}       // closed when no more will be given

	ctx    context.Context // done when run has ended
	cancel context.CancelFunc

	mu      sync.Mutex      // guards the following field
	pending map[int64]int64 // of each notification that is on its way, its bytes
}

// sent is a notification that the broker has not confirmed yet.
type sent struct {
	actor.Notification
	confirmation *amqp.DeferredConfirmation
}

func openNotifier(conn *amqp.Connection, store Store, log *zap.Logger) (*notifier, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("opening a channel: %w", err)
	}
	if err := channel.Confirm(false); err != nil {
		return nil, fmt.Errorf("asking for confirmations: %w", err)
	}
	n := &notifier{
		channel:  channel,
		closed:   channel.NotifyClose(make(chan *amqp.Error, 1)),
		store:    store,
		log:      log,
		queue:    make(chan actor.Notification, unconfirmedLimit),
		bytes:    semaphore.NewWeighted(unconfirmedBytes),
		flushing: make(chan struct{}),
		pending:  make(map[int64]int64),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n, nil
}

// catchUp sends what former sessions left in the outbox. It is to be called
// before run, and while nothing is committed.
func (n *notifier) catchUp(ctx context.Context) error {
	if err := n.store.Settle(ctx); err != nil {
		return err
	}
	var last int64
	for {
		page, err := n.store.Undelivered(ctx, last, 0, catchUpPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		var all []sent
		for _, x := range page {
			last = x.ID
			s, err := n.publish(x)
			if err != nil {
				return err
			}
			all = append(all, s)
		}
		for _, s := range all {
			if err := n.confirm(ctx, s); err != nil {
				return err
			}
		}
	}
}

// send gives a notification to the notifier, which has committed. It blocks
// while too many are unconfirmed; when the notifier has ended, it leaves the
// notification to the outbox.
func (n *notifier) send(x actor.Notification) {
	if n.begin(n.ctx, x) != nil {
		return
	}
	select {
	case n.queue <- x:
	case <-n.ctx.Done():
	}
}

// begin notes that x is on its way, when there is room for it.
func (n *notifier) begin(ctx context.Context, x actor.Notification) error {
	size := min(int64(len(x.Body)), unconfirmedBytes)
	if err := n.bytes.Acquire(ctx, size); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending[x.ID] += size // it may be on its way twice
	return nil
}

// end notes that x has arrived.
func (n *notifier) end(x actor.Notification) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bytes.Release(n.pending[x.ID])
	delete(n.pending, x.ID)
}

func (n *notifier) isPending(id int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, pending := n.pending[id]
	return pending
}

// run sends what it is given until ctx is done, the channel is lost, or all is
// sent and confirmed after flush.
func (n *notifier) run(ctx context.Context) {
	unconfirmed := make(chan sent, unconfirmedLimit)
	var confirming sync.WaitGroup
	defer n.cancel()
	defer confirming.Wait()
	defer close(unconfirmed)
	confirming.Go(func() { n.confirmAll(ctx, unconfirmed) })

	overdue := time.NewTicker(overdueEvery)
	defer overdue.Stop()
	publish := func(x actor.Notification) bool {
		s, err := n.publish(x)
		if err != nil {
			return false // the channel is closed, and the session learns of it
		}
		select {
		case unconfirmed <- s:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for {
		select {
		case x := <-n.queue:
			if !publish(x) {
				return
			}
		case <-overdue.C:
			for _, x := range n.overdue(ctx) {
				if !publish(x) {
					return
				}
			}
		case <-n.flushing:
			for len(n.queue) > 0 {
				if !publish(<-n.queue) {
					return
				}
			}
			return
		case <-ctx.Done():
			return
		}
	}
}

// flush waits until all that was sent is confirmed, or ctx is done. Nothing may
// be sent any more.
func (n *notifier) flush(ctx context.Context) {
	close(n.flushing)
	select {
	case <-n.ctx.Done():
	case <-ctx.Done():
	}
}

func (n *notifier) publish(x actor.Notification) (sent, error) {
	if x.Body == nil { // it cannot be read, which has been logged
		return sent{Notification: x}, nil
	}
	confirmation, err := n.channel.PublishWithDeferredConfirm(requestExchange, x.RoutingKey, false, false, amqp.Publishing{
		MessageId:    x.MessageID.String(),
		ContentType:  "application/json",
		DeliveryMode: amqp.Persistent,
		Timestamp:    time.Now(),
		AppId:        "glotpod.ident",
		Headers:      traceHeaders(x.TraceParent),
		Body:         x.Body,
	})
	if err != nil {
		return sent{}, fmt.Errorf("sending a notification: %w", err)
	}
	return sent{x, confirmation}, nil
}

func (n *notifier) confirmAll(ctx context.Context, unconfirmed <-chan sent) {
	for s := range unconfirmed {
		if n.confirm(ctx, s) != nil {
			return // it stays in the outbox, as do the others
		}
	}
}

// confirm waits until the broker has the notification. One that it refuses, on
// behalf of a subscriber's queue that takes no more, is sent again until it
// does not.
func (n *notifier) confirm(ctx context.Context, s sent) error {
	for s.confirmation != nil {
		acked, err := s.confirmation.WaitContext(ctx)
		if err != nil {
			return err
		}
		if acked {
			n.store.Delivered(s.ID)
			break
		}
		if n.channel.IsClosed() {
			return amqp.ErrClosed
		}
		n.log.Warn("a subscriber's queue refused a notification; sending it again",
			zap.Int64("id", s.ID), zap.Int64("user_id", s.UserID))
		select {
		case <-time.After(nackPause):
		case <-ctx.Done():
			return ctx.Err()
		}
		if s, err = n.publish(s.Notification); err != nil {
			return err
		}
	}
	n.end(s.Notification)
	return nil
}

// overdue returns notifications that are stored and were never sent: their
// commit had an outcome that this process, or one before it, did not learn.
func (n *notifier) overdue(ctx context.Context) []actor.Notification {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	stored, err := n.store.Undelivered(ctx, 0, overdueAge, catchUpPage)
	if err != nil {
		return nil // the database is out of reach: later
	}
	var overdue []actor.Notification
	for _, x := range stored {
		if x.Body != nil && !n.isPending(x.ID) && n.begin(ctx, x) == nil {
			overdue = append(overdue, x)
		}
	}
	return overdue
}
