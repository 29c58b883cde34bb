package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/rpc"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// watchPrefetch is how many notifications the broker sends ahead. With a hostile sender, each
	// takes maxReply bytes.
	watchPrefetch = 16

	// catchUpEvery is how often the log is read, if there were notifications.
	catchUpEvery = 10 * time.Minute

	// watchPageSize is how many changes are read from the log at once.
	watchPageSize = 500

	// notificationKeys is what the queue is bound with.
	notificationKeys = "notifications.user.*"
)

// WatchOptions say what [Client.Watch] does.
type WatchOptions struct {
	// Queue is the name of the queue that gets the notifications, of at most 255 bytes. Each
	// subscriber has a queue of its own. One process at a time can watch it; others wait until
	// that one ends.
	//
	// Watch declares the queue: durable, of the type classic, without other arguments. It keeps
	// all notifications while nobody watches it, so delete it to end a subscription for good, or
	// limit it by a policy of the broker.
	Queue string

	// After is the position to begin with: the last one that Save has got, or the After of the
	// first page of [Client.List]. With "", Watch begins with the changes in the queue and those
	// that are made after it was called.
	After string

	// Handle gets each change, one after another. When it returns nil, the change is
	// acknowledged. Its error ends Watch; the change comes again the next time.
	Handle func(ctx context.Context, change *Change) error

	// Save, if not nil, gets a position from time to time: all changes up to there were
	// handled, or are in the queue. Its error ends Watch.
	Save func(ctx context.Context, after string) error

	// Sequence, if not nil, returns the sequence of the last change of a user that was handled,
	// also before this process has started, and 0 if there is none. With it, no change is
	// handled twice. Its error ends Watch.
	Sequence func(ctx context.Context, userID int64) (int64, error)
}

// Watch handles the changes of all users, until ctx ends or a function of o fails. It returns
// that error.
//
// The changes of each user come in order. Watch gets them as notifications. It drops those that
// are repeated. If a sequence shows that a change is missing, because the queue did not exist
// or has dropped it, Watch reads the log from the last position on. It also does so at the
// beginning, if there is a position, after each lost connection, and every ten minutes. So each
// change is handled at least once, also if it was never notified, and a missing one at the latest
// ten minutes after the next notification.
//
// Watch remembers the sequences of some 100,000 users. If Sequence is nil, the changes since
// the last position come once more after a restart, from the first to the last one: so set or
// remove the value at each path of a patch, whatever is there.
//
// Access tokens are in a [Change] only if it was notified with them, which the service's
// operator decides. The log never has them.
//
// The error is [ErrPositionGone] if the log does not have all changes since the position. Then
// list all users, and call Watch with the After of the first page. Lost connections are
// replaced.
func (c *Client) Watch(ctx context.Context, o WatchOptions) error {
	if len(o.Queue) == 0 || len(o.Queue) > maxShortString {
		return fmt.Errorf("a queue's name has 1 to %d bytes", maxShortString)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	w := &watcher{client: c, o: o, position: o.After, sequences: newSequences(maxSequences)}
	pause := wait.Backoff{First: firstConnectPause, Longest: longestConnectPause}
	for {
		begin := time.Now()
		err := w.subscribe(ctx)
		switch {
		case c.ctx.Err() != nil:
			return ErrClosed
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errInterrupted):
		default:
			return err
		}
		c.o.observe("connect", begin, 1, err)
		if time.Since(begin) > longestConnectPause {
			pause.Reset()
		}
		pause.Wait(ctx) // an error ends the next subscription
	}
}

// errInterrupted is wrapped by errors after which a watcher subscribes again.
var errInterrupted = errors.New("the subscription was interrupted")

func interrupted(err error) error { return fmt.Errorf("%w: %w", errInterrupted, err) }

// A watcher is a call of Watch.
type watcher struct {
	client    *Client
	o         WatchOptions
	position  string // all changes up to there were handled; "": it is not known yet
	sequences *sequences
}

// subscribe handles changes until the connection is lost, ctx ends or a function of the options
// fails.
func (w *watcher) subscribe(ctx context.Context) error {
	dialCtx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := broker.Dial(dialCtx, w.client.o.broker())
	if err != nil {
		return interrupted(err)
	}
	defer conn.CloseDeadline(time.Now().Add(closeTimeout))
	release := closeWith(dialCtx, conn)
	deliveries, err := w.consume(conn)
	if !release() {
		return interrupted(dialCtx.Err())
	}
	if err != nil {
		return err
	}
	defer closeWith(ctx, conn)()
	if err := w.begin(ctx); err != nil {
		return err
	}
	return w.handleAll(ctx, deliveries)
}

// consume declares the queue, binds it and consumes it. The consumer is the only one.
func (w *watcher) consume(conn *amqp.Connection) (<-chan amqp.Delivery, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, interrupted(err)
	}
	_, err = channel.QueueDeclare(w.o.Queue, true, false, false, false, amqp.Table{"x-queue-type": "classic"})
	if err == nil {
		err = channel.QueueBind(w.o.Queue, notificationKeys, rpc.Exchange, false, nil)
	}
	if err == nil {
		err = channel.Qos(watchPrefetch, 0, false)
	}
	if broker.IsCode(err, amqp.AccessRefused) || broker.IsCode(err, amqp.PreconditionFailed) {
		return nil, fmt.Errorf("%w: declaring the queue %s: %w", ErrRejected, w.o.Queue, err)
	}
	if err != nil {
		return nil, interrupted(err)
	}
	deliveries, err := channel.Consume(w.o.Queue, "", false, true, false, false, nil)
	if err != nil {
		return nil, interrupted(err) // another process watches the queue
	}
	return deliveries, nil
}

// begin reads the log from the position on. If there is none, the present one is taken, which
// comes after the binding of the queue.
func (w *watcher) begin(ctx context.Context) error {
	if w.position != "" {
		return w.catchUp(ctx)
	}
	page, err := w.client.List(ctx, ListOptions{PageSize: 1})
	if err != nil {
		return requestError(err)
	}
	return w.save(ctx, page.After)
}

// requestError returns the error of a request of a watcher. One that may pass is an
// interruption.
func requestError(err error) error {
	if refusal, ok := errors.AsType[*Error](err); ok && !refusal.Retryable {
		return err
	}
	return interrupted(err)
}

func (w *watcher) save(ctx context.Context, position string) error {
	w.position = position
	if w.o.Save == nil {
		return nil
	}
	return w.o.Save(ctx, position)
}

// catchUp handles the changes in the log after the position.
func (w *watcher) catchUp(ctx context.Context) error {
	for {
		page, err := w.client.Changes(ctx, w.position, watchPageSize)
		if err != nil {
			return requestError(err)
		}
		for i := range page.Changes {
			if err := w.handle(ctx, &page.Changes[i]); err != nil {
				return err
			}
		}
		if page.After != w.position {
			if err := w.save(ctx, page.After); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
	}
}

// handleAll handles notifications until the connection is lost. From time to time it reads
// the log, if there were any: the position then is a recent one.
func (w *watcher) handleAll(ctx context.Context, deliveries <-chan amqp.Delivery) error {
	timer := time.NewTicker(catchUpEvery)
	defer timer.Stop()
	for notified := false; ; {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return interrupted(amqp.ErrClosed)
			}
			if err := w.handleDelivery(ctx, &d); err != nil {
				return err
			}
			notified = true
		case <-timer.C:
			if !notified {
				continue
			}
			if err := w.catchUp(ctx); err != nil {
				return err
			}
			notified = false
		}
	}
}

// handleDelivery handles a notification and acknowledges it. A message that is no notification
// is dropped: any client of the broker may send one.
func (w *watcher) handleDelivery(ctx context.Context, d *amqp.Delivery) error {
	begin := time.Now()
	change, err := parseNotification(d)
	if err == nil {
		err = w.handleNotified(ctx, change)
	}
	w.client.o.observe("watch", begin, 1, err)
	if err != nil && !errors.Is(err, ErrMalformed) {
		return err
	}
	if err := d.Ack(false); err != nil {
		return interrupted(err)
	}
	return nil
}

// handleNotified handles a change that was notified. If an earlier one of the user is missing,
// it reads the log first, which usually has this one too.
func (w *watcher) handleNotified(ctx context.Context, change *Change) error {
	last, err := w.last(ctx, change.UserID)
	if err == nil && last > 0 && change.Sequence > last+1 {
		err = w.catchUp(ctx)
	}
	if err != nil {
		return err
	}
	return w.handle(ctx, change)
}

// handle handles a change, unless it was handled already.
func (w *watcher) handle(ctx context.Context, change *Change) error {
	last, err := w.last(ctx, change.UserID)
	if err != nil || change.Sequence <= last {
		return err
	}
	if err := w.o.Handle(ctx, change); err != nil {
		return err
	}
	w.sequences.set(change.UserID, change.Sequence)
	return nil
}

// last returns the sequence of the last change of a user that was handled, 0 if it is not
// known.
func (w *watcher) last(ctx context.Context, userID int64) (int64, error) {
	if last := w.sequences.get(userID); last > 0 || w.o.Sequence == nil {
		return last, nil
	}
	return w.o.Sequence(ctx, userID)
}
