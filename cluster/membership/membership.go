package membership

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/ownership"
)

// Options say whose membership it is, and who is told what. None of the
// functions may wait for this package.
type Options struct {
	Self ownership.Member

	// Report returns what is answered to a status request. It is called from
	// one goroutine, and Close waits for it.
	Report func() Report

	// OnEvent is told what has happened, an [ownership.Received] or an
	// [ownership.Gone]. It must not block, and is called from two goroutines.
	OnEvent func(ownership.Event)

	// OnDrain is told that an operator wants this instance to drain, or not to
	// any more. It must not block.
	OnDrain func(yes bool)

	Log *zap.Logger
}

// A Membership is an instance's part in the cluster over one connection to the
// broker. It is safe for concurrent use.
type Membership struct {
	o          Options
	channel    *amqp.Channel
	closing    chan *amqp.Error // the channel's end
	deliveries <-chan amqp.Delivery
	returned   chan amqp.Return
	confirmed  chan amqp.Confirmation

	garbage   complaint // what came and could not be used
	discarded complaint // what was to be sent and was not

	asked  chan question // status requests that wait
	ready  chan struct{} // holds a token while there may be something to send
	lost   chan struct{} // closed when this is of no use any more
	end    sync.Once     // closes the channel and waits for the following
	using  sync.WaitGroup
	taking sync.WaitGroup // what the channel has for us, until it is closed

	mu       sync.Mutex // guards the following fields
	err      error      // why it is lost
	outbound outbound
	flushes  []flush
}

// consumerTag names the consumer of the member's queue within its channel.
const consumerTag = "member"

// prefetch is how many messages the broker sends ahead. The rest waits in the
// queue, and there makes room for what is newer.
const prefetch = 64

// Join makes this instance a member over conn: it declares the exchange and the
// member's queue, and hears from now on what others broadcast. It sends nothing
// by itself. ctx bounds the joining alone; where it ends meanwhile, conn is
// closed, since that is the only way to stop waiting for the broker.
//
// A queue that is there already means that another connection is this very
// member, which is an error.
func Join(ctx context.Context, conn *amqp.Connection, o Options) (*Membership, error) {
	m := &Membership{
		o:         o,
		garbage:   complaint{log: o.Log, message: "a message to the members was not understood"},
		discarded: complaint{log: o.Log, message: "messages to the members were not sent"},
		asked:     make(chan question, maxQuestions),
		ready:     make(chan struct{}, 1),
		lost:      make(chan struct{}),
		outbound:  newOutbound(),
	}
	if err := within(ctx, conn, func() error { return m.open(conn) }); err != nil {
		return nil, err
	}
	m.taking.Go(m.confirm)
	m.using.Go(m.receive)
	m.using.Go(m.send)
	m.using.Go(m.answer)
	return m, nil
}

// open opens the channel. When it fails there is no channel left.
func (m *Membership) open(conn *amqp.Connection) (err error) {
	if m.channel, err = conn.Channel(); err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	defer func() {
		if err != nil {
			m.channel.Close()
		}
	}()
	if err := m.channel.Confirm(false); err != nil {
		return fmt.Errorf("asking for confirmations: %w", err)
	}
	if err := m.channel.Qos(prefetch, 0, false); err != nil {
		return fmt.Errorf("setting the prefetch count: %w", err)
	}
	queue := QueueOf(m.o.Self)
	if err := Declare(m.channel); err != nil {
		return err
	}
	if err := declareOwn(m.channel, queue); err != nil {
		return err
	}
	if err := m.channel.QueueBind(queue, "", Exchange, false, nil); err != nil {
		return fmt.Errorf("binding the queue %s: %w", queue, err)
	}
	m.closing = m.channel.NotifyClose(make(chan *amqp.Error, 1))
	// Without buffers: then a return is taken before the confirmation that the
	// broker sends after it.
	m.returned = m.channel.NotifyReturn(make(chan amqp.Return))
	m.confirmed = m.channel.NotifyPublish(make(chan amqp.Confirmation))
	if m.deliveries, err = m.channel.Consume(queue, consumerTag, false, true, false, false, nil); err != nil {
		return fmt.Errorf("consuming the queue %s: %w", queue, err)
	}
	return nil
}

// within calls f, which waits for the broker, and closes the connection if ctx
// ends meanwhile.
func within(ctx context.Context, conn *amqp.Connection, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	release := context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })
	err := f()
	if !release() {
		return ctx.Err() // which is why f failed, if it did
	}
	return err
}

var errClosed = errors.New("the membership was closed")

// Done returns a channel that is closed when the membership is lost, since
// its channel or its queue is, or when Close is called.
func (m *Membership) Done() <-chan struct{} { return m.lost }

// Err returns why the membership is lost, nil while it is not.
func (m *Membership) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// lose says that the membership is of no use any more. The first reason counts.
func (m *Membership) lose(why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = why
		close(m.lost)
	}
}

// Close ends the membership and the member's queue. When it returns, nobody is
// told anything any more. It throws away what is not sent yet; see
// [Membership.Flush]. It waits for the broker, which closing the connection
// ends.
func (m *Membership) Close() {
	m.lose(errClosed)
	m.end.Do(func() {
		m.using.Wait() // lest something be sent on a channel that is being closed
		m.channel.Close()
		m.taking.Wait()
	})
}
