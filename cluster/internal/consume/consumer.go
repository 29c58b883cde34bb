package consume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Channel is what this package uses of an [amqp.Channel].
type Channel interface {
	Qos(prefetchCount, prefetchSize int, global bool) error
	Consume(queue, consumer string, autoAck, exclusive, noLocal, noWait bool, args amqp.Table) (<-chan amqp.Delivery, error)
	Cancel(consumer string, noWait bool) error
	PublishWithContext(ctx context.Context, exchange, key string, mandatory, immediate bool, msg amqp.Publishing) error
	Ack(tag uint64, multiple bool) error
	Nack(tag uint64, multiple, requeue bool) error
	NotifyClose(chan *amqp.Error) chan *amqp.Error
	IsClosed() bool
	Close() error
}

// Over returns a function that opens channels of conn.
func Over(conn *amqp.Connection) func() (Channel, error) {
	return func() (Channel, error) {
		channel, err := conn.Channel()
		if err != nil {
			return nil, fmt.Errorf("opening a channel: %w", err)
		}
		return channel, nil
	}
}

// A Consumer takes requests from one queue over a channel of its own, and sends their
// replies and acknowledgements. Its methods are safe for concurrent use. After Close, or
// after it was put back into its [Pool], they send nothing and return [amqp.ErrClosed].
type Consumer struct {
	Queue string

	// Deliveries are the requests. It is set by Start. The channel is closed when the
	// consumer was cancelled or the connection is lost.
	Deliveries <-chan amqp.Delivery

	// Requests counts the requests that were taken from Deliveries and are not complete.
	// The user of the consumer maintains it.
	Requests sync.WaitGroup

	idle idleChannel
	tag  string // of the consumer at the broker
	acks *acks

	// publishing is held for reading while a reply is published: no other frames may
	// come between the frames of a message.
	publishing sync.RWMutex

	mu     sync.RWMutex // held for reading while something is sent
	closed bool

	cancel    sync.Once
	cancelErr error // guarded by cancel
}

// An idleChannel is an open channel with a prefetch count, on which no consumer runs.
type idleChannel struct {
	channel  Channel
	lost     chan *amqp.Error // receives when the channel is lost
	prefetch int
}

// openIdle opens a channel on which the broker sends up to prefetch deliveries that are
// not acknowledged.
func openIdle(open func() (Channel, error), prefetch int) (idleChannel, error) {
	channel, err := open()
	if err != nil {
		return idleChannel{}, err
	}
	if err := channel.Qos(prefetch, 0, false); err != nil {
		channel.Close() // an error means that it is closed already
		return idleChannel{}, fmt.Errorf("setting the prefetch count: %w", err)
	}
	return idleChannel{channel, channel.NotifyClose(make(chan *amqp.Error, 1)), prefetch}, nil
}

// Open opens a channel to consume a queue, without a [Pool].
func Open(open func() (Channel, error), queue string, prefetch int) (*Consumer, error) {
	idle, err := openIdle(open, prefetch)
	if err != nil {
		return nil, err
	}
	return newConsumer(idle, queue), nil
}

// consumers numbers the consumers of this process. Each has a tag of its own, because
// RabbitMQ confuses two consumers that use the same tag one after the other on the same
// channel (https://github.com/rabbitmq/rabbitmq-server/pull/9158).
var consumers atomic.Int64

func newConsumer(idle idleChannel, queue string) *Consumer {
	c := &Consumer{idle: idle, Queue: queue, tag: fmt.Sprintf("ident-%d", consumers.Add(1))}
	c.acks = newAcks(idle.prefetch, func(tag uint64, multiple bool) error {
		return c.send(func() error { return idle.channel.Ack(tag, multiple) })
	})
	return c
}

// Start begins to take requests. If exclusive is true, the broker refuses other
// consumers of the queue. After an error the consumer is closed.
func (c *Consumer) Start(exclusive bool) error { return c.start(exclusive, nil) }

// StartShared begins to take requests of a queue that has other consumers. The broker sends a
// request to one with the highest priority of those that have room for it.
func (c *Consumer) StartShared(priority int) error {
	return c.start(false, amqp.Table{"x-priority": int32(priority)})
}

func (c *Consumer) start(exclusive bool, args amqp.Table) (err error) {
	if c.Deliveries, err = c.idle.channel.Consume(c.Queue, c.tag, false, exclusive, false, false, args); err != nil {
		c.Close()
		return fmt.Errorf("consuming the queue %s: %w", c.Queue, err)
	}
	return nil
}

// Prefetch returns the consumer's prefetch count.
func (c *Consumer) Prefetch() int { return c.idle.prefetch }

// Track notes a delivery. Each delivery must be tracked, in order, before it is
// acknowledged or requeued.
func (c *Consumer) Track(d *amqp.Delivery) { c.acks.track(d.DeliveryTag) }

// Ack has a delivery acknowledged: at once if urgent, otherwise together with others. If
// needsFlush is true, the caller must see that FlushAcks is called within [AckDelay].
func (c *Consumer) Ack(d *amqp.Delivery, urgent bool) (needsFlush bool, err error) {
	return c.acks.add(d.DeliveryTag, urgent)
}

// FlushAcks sends the acknowledgements that wait for others. On an error the channel is
// closed: the deliveries come again.
func (c *Consumer) FlushAcks() error { return c.acks.flush() }

// Requeue has the broker deliver a request again. It fails only if the channel is
// closed, which has the same effect.
func (c *Consumer) Requeue(d *amqp.Delivery) error {
	return c.acks.reject(d.DeliveryTag, func() error {
		return c.send(func() error { return c.idle.channel.Nack(d.DeliveryTag, false, true) })
	})
}

// Publish sends a reply to a queue.
func (c *Consumer) Publish(ctx context.Context, queue string, reply amqp.Publishing) error {
	c.publishing.RLock()
	defer c.publishing.RUnlock()
	return c.send(func() error { return c.idle.channel.PublishWithContext(ctx, "", queue, false, false, reply) })
}

// send calls f, which sends something on the channel, unless the consumer is closed.
func (c *Consumer) send(f func() error) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return amqp.ErrClosed
	}
	return f()
}

// Cancel ends the consumer at the broker. Deliveries still yields what the broker had
// sent before, and is then closed. No reply is published meanwhile: amqp091-go would
// send the cancellation between the frames of a message, which costs the connection.
// Further calls wait for the first one.
func (c *Consumer) Cancel() error {
	c.cancel.Do(func() {
		c.publishing.Lock()
		defer c.publishing.Unlock()
		c.cancelErr = c.send(func() error { return c.idle.channel.Cancel(c.tag, false) })
	})
	return c.cancelErr
}

// lossDelay is how long after the end of a consumer the loss of its channel is known.
const lossDelay = 100 * time.Millisecond

// errCancelledByBroker names the causes, since the broker does not say which it is.
// RabbitMQ closes the channel after a consumer timeout; from 4.3 on, it cancels the
// consumer.
var errCancelledByBroker = errors.New("the broker cancelled the consumer: the queue was deleted, its node has stopped, or a request was not acknowledged within consumer_timeout")

// EndCause says why Deliveries was closed although Cancel was not called. It waits up to
// 100 ms to find out.
func (c *Consumer) EndCause() error {
	select {
	case cause := <-c.idle.lost:
		return LostError(cause)
	case <-time.After(lossDelay):
		return errCancelledByBroker
	}
}

// Close sends the acknowledgements that wait, and closes the channel. The broker then
// delivers again what was not acknowledged. Nothing is sent afterwards, since sending on
// a channel that is being closed costs the connection.
func (c *Consumer) Close() {
	if c.stopSending() {
		c.idle.channel.Close() // on an error the connection is lost
	}
}

// stopSending sends the acknowledgements that wait, and keeps anything else from being
// sent. It returns false if it was called before.
func (c *Consumer) stopSending() bool {
	c.acks.flush() // on an error the connection is lost
	c.mu.Lock()
	defer c.mu.Unlock()
	wasClosed := c.closed
	c.closed = true
	return !wasClosed
}

// LostError returns the error that says why a connection or channel was closed. cause is
// what [amqp.Channel.NotifyClose] delivered, nil if nothing.
func LostError(cause *amqp.Error) error {
	if cause == nil {
		return errors.New("the connection was closed")
	}
	return fmt.Errorf("the connection was lost: %w", cause)
}
