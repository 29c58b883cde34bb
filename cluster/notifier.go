package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
)

const (
	// unconfirmedLimit is how many notifications are sent ahead of the
	// broker's confirmations. Then commits wait.
	unconfirmedLimit = 1024

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
	flushing chan struct{} // closed when no more will be given
	done     chan struct{} // closed when run has ended

	mu      sync.Mutex // guards the following field
	pending map[int64]bool
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
	return &notifier{
		channel:  channel,
		closed:   channel.NotifyClose(make(chan *amqp.Error, 1)),
		store:    store,
		log:      log,
		queue:    make(chan actor.Notification, unconfirmedLimit),
		flushing: make(chan struct{}),
		done:     make(chan struct{}),
		pending:  make(map[int64]bool),
	}, nil
}

// catchUp sends what former sessions left in the outbox. It is to be called
// before run, and while nothing is committed.
func (n *notifier) catchUp(ctx context.Context) error {
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
	n.setPending(x.ID, true)
	select {
	case n.queue <- x:
	case <-n.done:
	}
}

func (n *notifier) setPending(id int64, pending bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if pending {
		n.pending[id] = true
	} else {
		delete(n.pending, id)
	}
}

func (n *notifier) isPending(id int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pending[id]
}

// run sends what it is given until ctx is done, the channel is lost, or all is
// sent and confirmed after flush.
func (n *notifier) run(ctx context.Context) {
	unconfirmed := make(chan sent, unconfirmedLimit)
	var confirming sync.WaitGroup
	defer close(n.done)
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
	case <-n.done:
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
	n.setPending(s.ID, false)
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
		if x.Body != nil && !n.isPending(x.ID) {
			n.setPending(x.ID, true)
			overdue = append(overdue, x)
		}
	}
	return overdue
}
