package cluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A line is a channel that requests come by from one queue, and that they are
// answered and acknowledged on. Anybody may send on it, until it is closed or put back.
type line struct {
	prepared
	queue      string
	tag        string // of the consumer
	deliveries <-chan amqp.Delivery
	acks       *acks

	// calls are those that were taken from deliveries and are neither answered
	// nor given up.
	calls sync.WaitGroup

	// publishing is held for reading while an answer is published, whose frames have to
	// stay together.
	publishing sync.RWMutex

	mu     sync.RWMutex // held for reading while somebody sends
	closed bool
}

// A prepared channel is open and has its prefetch count, and is not consumed on.
type prepared struct {
	channel  *amqp.Channel
	closing  chan *amqp.Error // the channel's end
	prefetch int
}

// prepare opens a channel by which up to prefetch requests are taken that are not
// answered yet.
func prepare(conn *amqp.Connection, prefetch int) (prepared, error) {
	channel, err := conn.Channel()
	if err != nil {
		return prepared{}, fmt.Errorf("opening a channel: %w", err)
	}
	if err := channel.Qos(prefetch, 0, false); err != nil {
		channel.Close() // an error is the channel's end
		return prepared{}, fmt.Errorf("setting the prefetch count: %w", err)
	}
	return prepared{channel, channel.NotifyClose(make(chan *amqp.Error, 1)), prefetch}, nil
}

// openLine opens a channel to consume a queue.
func openLine(conn *amqp.Connection, queue string, prefetch int) (*line, error) {
	p, err := prepare(conn, prefetch)
	if err != nil {
		return nil, err
	}
	return newLine(p, queue), nil
}

// consumers counts the lines. RabbitMQ confuses two consumers that have the same tag, one
// after the other on the same channel (https://github.com/rabbitmq/rabbitmq-server/pull/9158).
var consumers atomic.Int64

func newLine(p prepared, queue string) *line {
	l := &line{prepared: p, queue: queue, tag: fmt.Sprintf("ident-%d", consumers.Add(1))}
	l.acks = newAcks(p.prefetch, func(tag uint64, multiple bool) error {
		return l.send(func() error { return p.channel.Ack(tag, multiple) })
	})
	return l
}

// consume begins to take requests. If it is exclusive, nobody else can consume the
// queue. On an error the line is of no use any more.
func (l *line) consume(exclusive bool) (err error) {
	if l.deliveries, err = l.channel.Consume(l.queue, l.tag, false, exclusive, false, false, nil); err != nil {
		l.close()
		return fmt.Errorf("consuming the queue %s: %w", l.queue, err)
	}
	return nil
}

// why says why deliveries have ended though nobody asked for it.
func (l *line) why() error {
	select {
	case cause := <-l.closing:
		return lostError(cause)
	case <-time.After(closingWait):
		return errConsumerCancelled
	}
}

// closingWait is how long after the end of its consumer a channel that is lost
// is known to be.
const closingWait = 100 * time.Millisecond

// cancel ends the consumer. What the broker had sent before can still be taken
// from deliveries, which end then. Meanwhile nobody publishes: amqp091-go would put
// the cancellation between the frames of a message, which costs the connection.
func (l *line) cancel() error {
	l.publishing.Lock()
	defer l.publishing.Unlock()
	return l.channel.Cancel(l.tag, false)
}

// publish sends an answer to a queue.
func (l *line) publish(ctx context.Context, queue string, answer amqp.Publishing) error {
	l.publishing.RLock()
	defer l.publishing.RUnlock()
	return l.send(func() error { return l.channel.PublishWithContext(ctx, "", queue, false, false, answer) })
}

// send does what sends on the channel. On a closed line it returns amqp.ErrClosed.
func (l *line) send(f func() error) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return amqp.ErrClosed
	}
	return f()
}

// close closes the channel, so that the broker gives what is not to be acknowledged
// to others. Nothing is sent from then on: what is sent on a channel that is
// being closed costs the connection.
func (l *line) close() {
	if l.end() {
		l.channel.Close() // an error is the connection's end
	}
}

// end has nothing sent from now on, but for the acknowledgements that wait. It
// returns false if the line had ended before.
func (l *line) end() bool {
	l.acks.flush() // an error is the connection's end
	l.mu.Lock()
	defer l.mu.Unlock()
	ended := l.closed
	l.closed = true
	return !ended
}
