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

	// minReadPause is the least time between the end of a reading of the log and the next one.
	minReadPause = 200 * time.Millisecond

	// readPauseFactor times the time that the service took for a reading is also such a least time.
	readPauseFactor = 10

	// readEvery is how often the log is read without a notification.
	readEvery = time.Minute

	// watchPageSize is how many changes are read from the log at once.
	watchPageSize = 500

	// queueExpires is how long the queue exists while nobody watches it.
	queueExpires = time.Hour

	// notificationKeys is what the queue is bound with.
	notificationKeys = "notifications.user.*"
)

// WatchOptions say what [Client.Watch] does. Its functions are called one after another.
type WatchOptions struct {
	// Queue is the name of the queue that gets the notifications, of at most 255 bytes. Each
	// subscriber has a queue of its own. If several calls, in one or several processes, have the same
	// queue, one of them handles changes and the others wait until that one ends. A call that
	// has waited begins with its own After. Its changes may be repeated by a call that has lost its
	// connection: that one finishes the change that it is handling.
	//
	// Watch declares the queue: durable, of the type classic, of one message, deleted after an
	// hour in which nobody watches it. A queue of that name that exists already is used as it is,
	// which may be one that the broker's operator has declared for a login without the right to.
	Queue string

	// After is the position to begin with: the last one that Save has got, or the After of the
	// first page of [Client.List]. With "", Watch begins with the changes that are made after it
	// was called.
	After string

	// Handle gets each change. Its error ends Watch.
	Handle func(ctx context.Context, change *Change) error

	// Save, if not nil, gets a position after each page of up to 500 changes, and at the
	// beginning if After is "". All changes up to the position were handled. So when Save
	// returns nil, both the position and what Handle made of the changes must be durable: Save either
	// stores the position after them, or all together in one transaction. Its error ends Watch.
	Save func(ctx context.Context, after string) error

	// CaughtUp, if not nil, is called each time all changes that the log had were handled and
	// saved. The first time, a copy of the users is complete.
	CaughtUp func()
}

// Watch handles the changes of all users, until ctx ends or a function of o fails. It returns
// that error.
//
// The changes come from the log, as with [Client.Changes]: each one after the position, the
// changes of each user in order. Notifications only tell Watch when to read the log. So nothing
// is missed whatever becomes of them: a change is usually handled some milliseconds after it was made,
// at most some 0.2 seconds if there are many, and at the latest after a minute if its notification is
// lost. While the service takes long to reply, Watch asks it less often.
//
// After a restart, the changes since the last position that was saved come again, and after a
// snapshot those that were made meanwhile: from the first to the last one, in each user's order.
// [User.Apply] is made for that. A subscriber that stores the last [Change.Sequence] of each user together
// with what it makes of the change can skip those that are not greater. After a new snapshot it must
// forget these numbers.
//
// Watch has a connection of its own, and sends requests over that of c, which Observe sees as
// list and changes. A lost connection is replaced. While there is no broker or no service,
// Watch tries again and does not return; Observe sees these errors.
//
// The error is [ErrPositionGone] if the log does not have all changes since the position, and
// [ErrBadRequest] if After is no position of the service: it is damaged. In both cases list all
// users, and call Watch with the After of the first page.
//
// The login needs the permissions of the broker to send requests, to configure the queue unless it
// exists, to write and read it, and to read amq.topic with the topic notifications.user.*. Without
// them the error is [ErrRejected]. But if only the permission to read the queue is missing, the broker
// replies as if another call watched it, and Watch waits; Observe sees that.
func (c *Client) Watch(ctx context.Context, o WatchOptions) error {
	if len(o.Queue) == 0 || len(o.Queue) > maxShortString {
		return fmt.Errorf("a queue's name has 1 to %d bytes", maxShortString)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	w := &watcher{client: c, o: o, log: c, position: o.After}
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
	client   *Client
	o        WatchOptions
	log      changeLog
	position string // all changes up to there were handled; "": it is not known yet
}

// A changeLog is what a watcher reads changes from: a [Client].
type changeLog interface {
	Changes(ctx context.Context, after string, pageSize int) (*ChangePage, error)
}

// subscribe handles changes until the connection is lost, ctx ends or a function of the options
// fails.
func (w *watcher) subscribe(ctx context.Context) error {
	if err := w.start(ctx); err != nil {
		return err
	}
	dialCtx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	o := w.client.o.broker()
	o.ConnectionName += " (watch)"
	conn, err := broker.Dial(dialCtx, o)
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
	if err := w.saveFirst(ctx); err != nil {
		return err
	}
	return w.follow(ctx, deliveries, conn.IsClosed)
}

// consume declares the queue, binds it and consumes it. The consumer is the only one.
func (w *watcher) consume(conn *amqp.Connection) (<-chan amqp.Delivery, error) {
	channel, err := w.bind(conn)
	if err != nil {
		return nil, err
	}
	if err := channel.Qos(watchPrefetch, 0, false); err != nil {
		return nil, interrupted(err)
	}
	deliveries, err := channel.Consume(w.o.Queue, "", false, true, false, false, nil)
	if err != nil {
		return nil, interrupted(err) // another process watches the queue
	}
	return deliveries, nil
}

// bind declares the queue and binds it, over a channel that it opens. If the broker refuses the
// declaration, the queue may exist nevertheless.
func (w *watcher) bind(conn *amqp.Connection) (*amqp.Channel, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, interrupted(err)
	}
	_, refusal := channel.QueueDeclare(w.o.Queue, true, false, false, false, amqp.Table{
		"x-queue-type": "classic", "x-max-length": int32(1), "x-expires": int32(queueExpires / time.Millisecond),
	})
	if isRefusal(refusal) {
		if channel, err = conn.Channel(); err != nil {
			return nil, interrupted(err)
		}
	} else if refusal != nil {
		return nil, interrupted(refusal)
	}
	err = channel.QueueBind(w.o.Queue, notificationKeys, rpc.Exchange, false, nil)
	switch {
	case err == nil:
		return channel, nil
	case isRefusal(err):
		return nil, fmt.Errorf("%w: binding the queue %s: %w", ErrRejected, w.o.Queue, err)
	case refusal != nil && broker.IsCode(err, amqp.NotFound):
		return nil, fmt.Errorf("%w: declaring the queue %s: %w", ErrRejected, w.o.Queue, refusal)
	default:
		return nil, interrupted(err)
	}
}

// isRefusal reports whether the broker will refuse the same again.
func isRefusal(err error) bool {
	return broker.IsCode(err, amqp.AccessRefused) || broker.IsCode(err, amqp.PreconditionFailed)
}

// start takes the present position if there is none.
func (w *watcher) start(ctx context.Context) error {
	if w.position != "" {
		return nil
	}
	page, err := w.client.List(ctx, ListOptions{PageSize: 1})
	if err != nil {
		return requestError(err)
	}
	w.position = page.After
	return nil
}

// saveFirst saves the position that start has taken, once no other call watches the queue.
func (w *watcher) saveFirst(ctx context.Context) error {
	if w.o.After != "" {
		return nil
	}
	w.o.After = w.position
	return w.save(ctx, w.position)
}

// requestError returns the error of a request of a watcher. One that may pass is an
// interruption.
func requestError(err error) error {
	if refusal, ok := errors.AsType[*Error](err); ok && !refusal.Retryable || errors.Is(err, ErrRejected) {
		return err
	}
	return interrupted(err)
}

// save makes a position that of the watcher once it is saved.
func (w *watcher) save(ctx context.Context, position string) error {
	if w.o.Save != nil {
		if err := w.o.Save(ctx, position); err != nil {
			return err
		}
	}
	w.position = position
	return nil
}

// follow handles changes until the connection of the notifications is lost, ctx ends or a function
// of the options fails.
//
// A change is committed before it is notified. So a reading of the log that begins after the
// notification was received has the change. The notification says nothing else: any client of
// the broker may send one.
func (w *watcher) follow(ctx context.Context, notifications <-chan amqp.Delivery, isLost func() bool) error {
	for {
		took, err := w.catchUp(ctx, isLost)
		if err != nil {
			return err
		}
		if err := awaitChange(ctx, notifications, max(minReadPause, readPauseFactor*took)); err != nil {
			return err
		}
	}
}

// catchUp handles the changes in the log after the position. It returns the time of the last
// request.
func (w *watcher) catchUp(ctx context.Context, isLost func() bool) (took time.Duration, err error) {
	for {
		begin := time.Now()
		page, err := w.log.Changes(ctx, w.position, watchPageSize)
		if err != nil {
			return 0, requestError(err)
		}
		took = time.Since(begin)
		for i := range page.Changes {
			if err := w.handle(ctx, &page.Changes[i], isLost); err != nil {
				return 0, err
			}
		}
		if page.After != w.position {
			if err := w.save(ctx, page.After); err != nil {
				return 0, err
			}
		}
		if !page.More {
			break
		}
	}
	if w.o.CaughtUp != nil {
		w.o.CaughtUp()
	}
	return took, nil
}

// handle handles a change, unless ctx has ended, or another watcher of the queue may be at work.
func (w *watcher) handle(ctx context.Context, change *Change, isLost func() bool) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case isLost():
		return interrupted(amqp.ErrClosed)
	}
	begin := time.Now()
	err := w.o.Handle(ctx, change)
	w.client.o.observe("watch", begin, 1, err)
	return err
}

// awaitChange waits until there may be changes: after a pause, if there was a notification, and
// after readEvery if there was none.
func awaitChange(ctx context.Context, notifications <-chan amqp.Delivery, pause time.Duration) error {
	rest, late := time.NewTimer(pause), time.NewTimer(max(pause, readEvery))
	defer rest.Stop()
	defer late.Stop()
	for rested, notified := false, false; !rested || !notified; {
		select {
		case d, ok := <-notifications:
			if !ok {
				return interrupted(amqp.ErrClosed)
			}
			if err := d.Ack(false); err != nil {
				return interrupted(err)
			}
			notified = true
		case <-rest.C:
			rested = true
		case <-late.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
