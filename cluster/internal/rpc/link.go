package rpc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Names that callers know.
const (
	// Exchange takes requests by their routing key, and notifications.
	Exchange = "amq.topic"

	// Prefix begins the routing key of each request. The name of the operation follows.
	Prefix = "rpc.user."

	// ReplyQueue stands for the link's own channel in RabbitMQ's direct reply-to.
	ReplyQueue = "amq.rabbitmq.reply-to"
)

// maxQueued is how many messages may wait until the broker takes in bytes.
const maxQueued = 1024

var (
	// ErrUnroutable means that no queue gets the request, which was sent once.
	ErrUnroutable = errors.New("no queue gets the request")

	errResentUnroutable = errors.New("the request was sent again after no reply came, and no queue got it")

	// ErrNotSent means that the context has ended before the request was sent.
	ErrNotSent = errors.New("the request was not sent")
)

// A LostError means that the channel was closed while the request was under way.
type LostError struct {
	Cause *amqp.Error // nil: this process has closed it
}

func (e *LostError) Error() string {
	if e.Cause == nil {
		return "the connection was closed"
	}
	return "the connection was lost: " + e.Cause.Error()
}

func (e *LostError) Unwrap() error {
	if e.Cause == nil {
		return nil
	}
	return e.Cause
}

// A Message is a request to send. The link sets ReplyTo and CorrelationId.
type Message struct {
	Exchange, Key string
	amqp.Publishing

	Deadline time.Time // when Send gives up, unless its context ends earlier; zero: never

	// ResendAfter is how long Send waits for a reply until it sends the message again, with
	// a jitter of half of that, and then twice as long. 0: it sends the message once.
	ResendAfter time.Duration
}

// A Link is one channel of a connection. It is safe for concurrent use.
type Link struct {
	channel channel
	sending chan *pending
	done    chan struct{} // closed when the channel is closed
	closed  chan *amqp.Error
	routine sync.WaitGroup // the link's own goroutines
	timers  sync.Pool      // of timers that do not run; one for each request would be garbage

	mu      sync.Mutex          // guards the following fields
	waiting map[uint64]*pending // by correlation id
	last    uint64              // correlation id
	lost    *LostError          // not nil: no reply will come any more
}

// A channel is what a link uses of an [amqp.Channel].
type channel interface {
	Consume(queue, consumer string, autoAck, exclusive, noLocal, noWait bool, args amqp.Table) (<-chan amqp.Delivery, error)
	NotifyReturn(chan amqp.Return) chan amqp.Return
	NotifyClose(chan *amqp.Error) chan *amqp.Error
	Publish(exchange, key string, mandatory, immediate bool, msg amqp.Publishing) error
	Close() error
}

// A pending request waits for its reply.
type pending struct {
	id       uint64
	message  *Message
	deadline time.Time    // zero: none
	sent     atomic.Int32 // how often
	ended    atomic.Bool  // nobody waits any more
	replied  chan reply   // has room for the only one
}

type reply struct {
	body []byte
	err  error
}

// Open opens a channel of conn. The link lasts until the channel or conn is closed; closing
// them is left to the caller.
func Open(conn *amqp.Connection) (*Link, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("opening a channel: %w", err)
	}
	return open(channel)
}

func open(channel channel) (*Link, error) {
	l := &Link{
		channel: channel, sending: make(chan *pending, maxQueued), done: make(chan struct{}), waiting: make(map[uint64]*pending),
		closed: channel.NotifyClose(make(chan *amqp.Error, 1)),
	}
	returned := channel.NotifyReturn(make(chan amqp.Return, 16)) // closed with the channel
	replies, err := channel.Consume(ReplyQueue, "", true, false, false, false, nil)
	if err != nil {
		return nil, fmt.Errorf("consuming replies: %w", err)
	}
	l.routine.Go(func() { l.receive(replies, returned) })
	l.routine.Go(l.publish)
	return l, nil
}

// Done is closed when the channel is closed.
func (l *Link) Done() <-chan struct{} { return l.done }

// Wait waits until the channel is closed and the link's goroutines have ended. It returns
// why.
func (l *Link) Wait() *LostError {
	l.routine.Wait()
	return l.lost
}

// Send sends a message and returns the body of the reply. The expiration is what is left of
// the time until the deadline when the message is sent.
//
// The error wraps [ErrUnroutable] or [ErrNotSent] if no queue got the message. Otherwise one may
// have got it: the error is a [LostError], ctx's error, or says that the message was unroutable
// when it was sent again. The library closes the connection over a name or id of more than 255
// bytes.
func (l *Link) Send(ctx context.Context, m *Message) ([]byte, error) {
	if err := m.Headers.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	p := &pending{message: m, deadline: earlier(ctx, m.Deadline), replied: make(chan reply, 1)}
	if err := ctx.Err(); err != nil {
		return nil, p.noReply(err)
	}
	if err := l.register(p); err != nil {
		return nil, err
	}
	defer l.forget(p)
	now := time.Now()
	after, resendAt := m.ResendAfter, now.Add(jittered(m.ResendAfter))
	timer := l.timer(p.wakeAfter(now, after, resendAt))
	defer l.putTimer(timer)
	sending := l.sending
	for {
		select {
		case sending <- p:
			sending = nil
		case r := <-p.replied:
			return r.body, p.replyError(r.err)
		case <-ctx.Done():
			return nil, p.noReply(ctx.Err())
		case now = <-timer.C:
			if !p.deadline.IsZero() && !now.Before(p.deadline) {
				return nil, p.noReply(context.DeadlineExceeded)
			}
			if after > 0 && !now.Before(resendAt) {
				after *= 2
				resendAt = now.Add(jittered(after))
				if p.sent.Load() > 0 {
					sending = l.sending
				}
			}
			timer.Reset(p.wakeAfter(now, after, resendAt))
		}
	}
}

// earlier returns the earlier one of a deadline and that of ctx, zero if there is none.
func earlier(ctx context.Context, deadline time.Time) time.Time {
	other, ok := ctx.Deadline()
	if ok && (deadline.IsZero() || other.Before(deadline)) {
		return other
	}
	return deadline
}

// timer returns a timer that fires after d.
func (l *Link) timer(d time.Duration) *time.Timer {
	if t, ok := l.timers.Get().(*time.Timer); ok {
		t.Reset(d)
		return t
	}
	return time.NewTimer(d)
}

func (l *Link) putTimer(t *time.Timer) {
	t.Stop()
	l.timers.Put(t)
}

// wakeAfter returns how long Send may wait until it has something to do.
func (p *pending) wakeAfter(now time.Time, after time.Duration, resendAt time.Time) time.Duration {
	wait := 24 * time.Hour // no reply takes that long
	if after > 0 {
		wait = resendAt.Sub(now)
	}
	if !p.deadline.IsZero() {
		wait = min(wait, p.deadline.Sub(now))
	}
	return wait
}

// noReply returns the error of a request to which no reply came until its time ended.
func (p *pending) noReply(err error) error {
	if p.sent.Load() > 0 {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNotSent, err)
}

// replyError returns the error of a reply. A queue may have got the request when it was sent
// before.
func (p *pending) replyError(err error) error {
	if errors.Is(err, ErrUnroutable) && p.sent.Load() > 1 {
		return errResentUnroutable
	}
	return err
}

// register makes p wait for a reply.
func (l *Link) register(p *pending) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return l.lost
	}
	l.last++
	p.id = l.last
	l.waiting[p.id] = p
	return nil
}

func (l *Link) forget(p *pending) {
	p.ended.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, p.id)
}

// publish sends messages until the channel is closed. Only this goroutine blocks if the
// broker takes in no bytes.
func (l *Link) publish() {
	for {
		select {
		case p := <-l.sending:
			l.publishOne(p)
		case <-l.done:
			return
		}
	}
}

func (l *Link) publishOne(p *pending) {
	if p.ended.Load() {
		return
	}
	m := p.message.Publishing
	m.ReplyTo = ReplyQueue
	m.CorrelationId = strconv.FormatUint(p.id, 36)
	if !p.deadline.IsZero() {
		left := time.Until(p.deadline)
		if left <= 0 {
			return
		}
		m.Expiration = strconv.FormatInt(max(1, left.Milliseconds()), 10)
	}
	p.sent.Add(1)
	l.channel.Publish(p.message.Exchange, p.message.Key, true, false, m) // an error means that the channel is lost
}

// receive passes replies and returned requests on, until the channel is closed.
func (l *Link) receive(replies <-chan amqp.Delivery, returned <-chan amqp.Return) {
	for {
		select {
		case d, ok := <-replies:
			if !ok {
				l.channel.Close() // it is open if the broker has cancelled the consumer only
				l.end(&LostError{<-l.closed})
				return
			}
			l.completeNamed(d.CorrelationId, reply{body: d.Body})
		case r, ok := <-returned:
			if !ok {
				returned = nil // replies is closed as well
				continue
			}
			l.completeNamed(r.CorrelationId, reply{err: ErrUnroutable})
		}
	}
}

func (l *Link) completeNamed(correlationID string, r reply) {
	if id, err := strconv.ParseUint(correlationID, 36, 64); err == nil {
		l.complete(id, r)
	}
}

// complete passes r to the request with this correlation id, if it still waits.
func (l *Link) complete(id uint64, r reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.waiting[id]; p != nil {
		p.replied <- r
		delete(l.waiting, id)
	}
}

// end completes all waiting and future requests with an error.
func (l *Link) end(lost *LostError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = lost
	for id, p := range l.waiting {
		p.replied <- reply{err: lost}
		delete(l.waiting, id)
	}
	close(l.done)
}

// jittered returns a duration from d/2 to d.
func jittered(d time.Duration) time.Duration { return d - rand.N(d/2+1) }
