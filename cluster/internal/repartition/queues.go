package repartition

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// maxUnconfirmed is how many copies may be unconfirmed. With one more that a quorum queue has not
	// confirmed, RabbitMQ stops reading from the connection.
	maxUnconfirmed = 31

	// inFlight is about how many requests the mover receives from all queues before they are
	// acknowledged. It receives at least one of each.
	inFlight = 256

	// openAtOnce is how many queues are begun to be consumed at the same time.
	openAtOnce = 8

	// consumeFor is how long the broker may refuse another consumer of a queue: until it has dropped the
	// connection of the last one.
	consumeFor = 6 * time.Second

	// callFor is how long the broker may take to respond about a queue.
	callFor = 3 * time.Second
)

// An oldQueue is a queue of the old generation that the mover consumes.
type oldQueue struct {
	name      string
	partition int // from 0 on
	prefetch  int
	consumer  *consume.Consumer
	unmarked  atomic.Pointer[error] // why the queue has not taken the marker; nil: it has
	left      error                 // why it is to be emptied later; nil: it is available

	intake  *intake      // of the consumer
	current atomic.Bool  // it is being emptied
	held    atomic.Int64 // messages in memory: received and not acknowledged
}

// An intake has what a consumer has received.
type intake struct {
	received chan amqp.Delivery // closed when the consumer has ended, or after over was set
	over     atomic.Bool        // what came after the last one was dropped
}

// errMissing means that there is no such queue.
var errMissing = errors.New("there is no such queue")

// openQueues consumes all old queues that exist, as the only consumer of each. Those that are not
// available are left for later.
func (m *mover) openQueues(ctx context.Context) error {
	queues := make([]*oldQueue, m.r.From.Partitions)
	opening, limited := errgroup.WithContext(ctx)
	opening.SetLimit(openAtOnce)
	for i := range queues {
		opening.Go(func() error {
			n := m.r.From.Partitions - 1 - i
			q := &oldQueue{name: topology.PartitionQueue(m.r.From.First + n), partition: n, prefetch: max(1, min(maxUnconfirmed, inFlight/m.r.From.Partitions))}
			err := m.openQueue(limited, q)
			if errors.Is(err, errMissing) {
				return nil
			}
			queues[i] = q
			return err
		})
	}
	if err := opening.Wait(); err != nil {
		return err
	}
	m.queues = slices.DeleteFunc(queues, func(q *oldQueue) bool { return q == nil })
	return nil
}

// openQueue consumes a queue. It waits until the broker has dropped the last consumer. If the queue is not
// available, it is left for later.
func (m *mover) openQueue(ctx context.Context, q *oldQueue) error {
	if err := m.silent[q.name]; errors.Is(err, publish.ErrUnconfirmed) {
		q.left = err
		return nil
	}
	for begun := time.Now(); ; {
		err := m.consume(ctx, q)
		busy := broker.IsCode(err, amqp.AccessRefused)
		switch {
		case err == nil:
			return nil
		case broker.IsCode(err, amqp.NotFound):
			missing, missErr := m.broker.isMissing(ctx, q.name, true, false, topology.PartitionArguments(m.r.From.QueueType))
			if missErr != nil {
				return missErr
			}
			if missing {
				return errMissing
			}
			q.left = err
			return nil
		case errors.Is(err, errHangs), busy && time.Since(begun) > consumeFor && m.phase != partition.Stopping:
			q.left = err
			return nil
		case !busy || time.Since(begun) > consumeFor:
			return err
		}
		if err := wait.For(ctx, pollEvery); err != nil {
			return err
		}
	}
}

func (m *mover) consume(ctx context.Context, q *oldQueue) error {
	started := make(chan *consume.Consumer, 1)
	err := m.broker.within(ctx, callFor, func() error {
		c, err := consume.Open(m.broker.conn.OpenConsuming, q.name, q.prefetch)
		if err == nil {
			err = c.Start(m.r.From.QueueType == topology.Classic)
		}
		started <- c
		return err
	})
	if err != nil {
		return fmt.Errorf("consuming the queue %s: %w", q.name, err)
	}
	c, in := <-started, &intake{received: make(chan amqp.Delivery, q.prefetch)}
	q.consumer, q.intake = c, in
	m.running.Go(func() { m.receive(q, in, c.Deliveries) })
	return nil
}

// receive takes all deliveries of a consumer, since the client library keeps in memory what is not
// taken. It keeps as many as fit into the budget, and drops the others: the broker delivers
// these again when the channel is closed. Of the queue that is being emptied it keeps at least one.
func (m *mover) receive(q *oldQueue, in *intake, deliveries <-chan amqp.Delivery) {
	for d := range deliveries {
		switch {
		case in.over.Load():
		case m.bytes.take(consume.Size(&d), q.current.Load() && q.held.Load() == 0):
			q.held.Add(1)
			in.received <- d // has room for as many as the broker sends
		default:
			in.over.Store(true)
			close(in.received)
		}
	}
	if !in.over.Load() {
		close(in.received)
	}
}

// A memory counts the bytes of the bodies in memory.
type memory struct {
	size int64
	used atomic.Int64
}

// take reports whether there is room for so many bytes, or must be.
func (b *memory) take(bytes int, must bool) bool {
	if b.used.Add(int64(bytes)) <= b.size || must {
		return true
	}
	b.used.Add(-int64(bytes))
	return false
}

// reopen consumes a queue again of which deliveries were dropped, with fewer at a time.
func (m *mover) reopen(ctx context.Context, q *oldQueue) error {
	for m.received.Load() > 0 {
		if wait.For(ctx, time.Millisecond) != nil {
			return context.Cause(ctx)
		}
	}
	c := q.consumer
	if err := m.broker.within(ctx, callFor, func() error { c.Close(); return nil }); err != nil {
		q.left = err
		return nil
	}
	q.prefetch = max(1, q.prefetch/2)
	if err := m.openQueue(ctx, q); !errors.Is(err, errMissing) {
		return err
	}
	q.left = errMissing
	return nil
}
