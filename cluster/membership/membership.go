package membership

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/throttle"
	"github.com/glotpod/ident/cluster/wait"
)

// Options configure a [Membership]. None of the functions may wait for a method of this
// package.
type Options struct {
	Self ownership.Member

	// Report returns the reply to a status request. It is called from one goroutine,
	// and Close waits for it.
	Report func() Report

	// UserReport returns the reply to a question about a user. It is called as Report is.
	UserReport func(userID int64) UserReport

	// OnEvent is called with each event: an [ownership.MessageReceived] or an
	// [ownership.MemberGone]. It must not block. It is called from several
	// goroutines.
	OnEvent func(ownership.Event)

	// OnDrain is called if an operator asks this instance to drain, or to take part
	// again (drain is false). It must not block.
	OnDrain func(drain bool)

	// OnLook is called if the record of repartitions has changed. It must not block.
	OnLook func()

	// OnMove is called if an operator asks this instance to own a partition whatever the hash ring
	// says, or (undo is true) takes that back. It must not block.
	OnMove func(partition int, undo bool)

	Log *zap.Logger
}

// A Membership makes an instance a member of the cluster over one connection to the
// broker. It is safe for concurrent use.
type Membership struct {
	options    Options
	channel    *amqp.Channel    // consumes the member's queue
	closing    chan *amqp.Error // receives the reason if the channel is closed
	deliveries <-chan amqp.Delivery
	publisher  *publish.Publisher

	malformed *throttle.Logger // messages received that could not be used
	unsent    *throttle.Logger // messages that were to be sent and were dropped

	queries   chan statusQuery // requests for reports that wait for a reply
	ready     wait.Signal      // there may be a message to send
	lost      chan struct{}    // closed when the membership is lost
	closeOnce sync.Once        // closes the channel and waits for the goroutines
	workers   sync.WaitGroup   // the goroutines that end when lost is closed

	mu      sync.Mutex // guards the following fields
	err     error      // why the membership is lost
	queue   sendQueue
	flushes []flush
}

// consumerTag is the tag of the consumer of the member's queue.
const consumerTag = "member"

// prefetch is how many messages the broker sends before they are acknowledged. The others
// wait in the queue, where the oldest are dropped if it is full.
const prefetch = 64

// logInterval is the least time between two log lines about messages that other clients
// can cause.
const logInterval = time.Minute

// Join makes this instance a member over conn: it declares the exchange and the member's
// queue, and consumes from the queue. It sends nothing by itself. ctx bounds Join alone.
// If ctx ends before Join returns, conn is closed: there is no other way to stop waiting
// for the broker.
//
// Join returns an error if the queue exists: then another connection is the same member.
func Join(ctx context.Context, conn *amqp.Connection, o Options) (*Membership, error) {
	m := &Membership{
		options:   o,
		malformed: throttle.New(o.Log, zapcore.WarnLevel, "malformed message to the members", logInterval),
		unsent:    throttle.New(o.Log, zapcore.WarnLevel, "messages to the members not sent", logInterval),
		queries:   make(chan statusQuery, maxStatusQueries),
		ready:     wait.NewSignal(),
		lost:      make(chan struct{}),
		queue:     newSendQueue(),
		publisher: publish.New(publish.Options{Open: publish.Over(conn), Timeout: confirmTimeout}),
	}
	if err := within(ctx, conn, func() error { return m.open(conn) }); err != nil {
		return nil, err
	}
	m.workers.Go(m.runPublisher)
	m.workers.Go(m.runReceiver)
	m.workers.Go(m.runSender)
	m.workers.Go(m.runReporter)
	return m, nil
}

// open opens the channel and prepares it. On an error the channel is closed.
func (m *Membership) open(conn *amqp.Connection) (err error) {
	if m.channel, err = conn.Channel(); err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	defer func() {
		if err != nil {
			m.channel.Close()
		}
	}()
	if err := m.channel.Qos(prefetch, 0, false); err != nil {
		return fmt.Errorf("setting the prefetch count: %w", err)
	}
	queue := QueueOf(m.options.Self)
	if err := Declare(m.channel); err != nil {
		return err
	}
	if err := declareExclusive(m.channel, queue); err != nil {
		return err
	}
	if err := m.channel.QueueBind(queue, "", Exchange, false, nil); err != nil {
		return fmt.Errorf("binding the queue %s: %w", queue, err)
	}
	m.closing = m.channel.NotifyClose(make(chan *amqp.Error, 1))
	if m.deliveries, err = m.channel.Consume(queue, consumerTag, false, true, false, false, nil); err != nil {
		return fmt.Errorf("consuming the queue %s: %w", queue, err)
	}
	return nil
}

// within calls f, which waits for the broker. If ctx ends before f returns, within closes
// the connection, which makes f return.
func within(ctx context.Context, conn *amqp.Connection, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	release := context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })
	err := f()
	if !release() {
		return ctx.Err() // if f failed, this is the cause
	}
	return err
}

var errClosed = errors.New("the membership was closed")

// Done returns a channel that is closed when the membership is lost, because its AMQP
// channel or its queue is lost, or when Close is called.
func (m *Membership) Done() <-chan struct{} { return m.lost }

// Err returns the reason for which the membership is lost, or nil if it is not lost.
func (m *Membership) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// lose marks the membership as lost. The first reason counts.
func (m *Membership) lose(reason error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = reason
		close(m.lost)
	}
}

// Close ends the membership and deletes the member's queue. After it has returned, none of
// the functions in Options is called. Close drops the messages that are not sent yet (see
// [Membership.Flush]). It waits for the broker; closing the connection ends that wait.
func (m *Membership) Close() {
	m.lose(errClosed)
	m.closeOnce.Do(func() {
		m.workers.Wait()
		m.channel.Close()
	})
}
