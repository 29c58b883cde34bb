package repartition

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
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

	// confirmFor is how long the broker may take to confirm a copy.
	confirmFor = 10 * time.Second

	// consumeFor is how long the broker may refuse another consumer of a queue: until it has dropped the
	// connection of the last one.
	consumeFor = 6 * time.Second

	// connectFor is how long connecting to the broker may take.
	connectFor = 3 * time.Second

	// silentFor is how long a queue may give nothing, not even the marker.
	silentFor = 10 * time.Second

	// closeTimeout is how long a connection waits for the broker when it is closed.
	closeTimeout = time.Second
)

// A mover is an attempt with connections to the broker.
type mover struct {
	*attempt
	conn       *amqp.Connection // consumes the old queues
	publishing *amqp.Connection // sends the copies

	queues    []*oldQueue // from the last partition's to the first one's; nil: they are not consumed yet
	copies    *publish.Publisher
	unsettled chan struct{} // has room for as many copies as may be unconfirmed
	received  atomic.Int64  // messages that were received and are not acknowledged
	writeFrom time.Time     // until then a deposed holder may read users from memory

	running sync.WaitGroup
	cancel  context.CancelFunc // ends the publisher
}

// An oldQueue is a queue of the old generation that the mover consumes.
type oldQueue struct {
	name     string
	consumer *consume.Consumer
}

// connect connects to the broker.
func (m *mover) connect(ctx context.Context) (err error) {
	if m.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	if m.conn, err = m.o.Dial(ctx, "repartition"); err != nil {
		return err
	}
	if m.publishing, err = m.o.Dial(ctx, "repartition, copies"); err != nil {
		return err
	}
	return nil
}

// close closes the connections. The broker then gives back what was received and not acknowledged.
func (m *mover) close() {
	if m.cancel != nil {
		m.cancel()
	}
	for _, conn := range []*amqp.Connection{m.conn, m.publishing} {
		if conn != nil {
			conn.CloseDeadline(time.Now().Add(closeTimeout))
		}
	}
	m.running.Wait()
	m.conn, m.publishing, m.queues = nil, nil, nil
}

// openQueues consumes all old queues that exist, as the only consumer of each.
func (m *mover) openQueues(ctx context.Context) error {
	if err := m.connect(ctx); err != nil {
		return err
	}
	running, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.copies, m.unsettled = publish.New(publish.Options{Open: publish.Over(m.publishing), Timeout: confirmFor}), make(chan struct{}, maxUnconfirmed)
	m.running.Go(func() { m.copies.Run(running) }) // an error means that the connection is lost, and the copies too
	queues := make([]*oldQueue, m.r.From.Partitions)
	opening, limited := errgroup.WithContext(ctx)
	opening.SetLimit(openAtOnce)
	for i := range queues {
		opening.Go(func() error {
			q := &oldQueue{name: topology.PartitionQueue(m.r.From.End() - 1 - i)}
			exists, err := m.openQueue(limited, q)
			if exists {
				queues[i] = q
			}
			return err
		})
	}
	if err := opening.Wait(); err != nil {
		return err
	}
	m.queues = slices.DeleteFunc(queues, func(q *oldQueue) bool { return q == nil })
	return nil
}

// openQueue consumes a queue. It waits until the broker has dropped the last consumer.
func (m *mover) openQueue(ctx context.Context, q *oldQueue) (exists bool, err error) {
	prefetch := max(1, min(maxUnconfirmed, inFlight/m.r.From.Partitions))
	for begun := time.Now(); ; {
		if q.consumer, err = consume.Open(consume.Over(m.conn), q.name, prefetch); err != nil {
			return false, err
		}
		err = q.consumer.Start(m.r.From.QueueType == topology.Classic)
		switch {
		case err == nil:
			return true, nil
		case broker.IsCode(err, amqp.NotFound):
			return false, m.checkMissing(q.name)
		case !broker.IsCode(err, amqp.AccessRefused) || time.Since(begun) > consumeFor:
			return false, err
		}
		if err := wait.For(ctx, pollEvery); err != nil {
			return false, err
		}
	}
}

// checkMissing returns an error if a queue that cannot be found exists: then its node is down.
func (m *mover) checkMissing(queue string) error {
	channel, err := m.conn.Channel()
	if err != nil {
		return err
	}
	defer channel.Close()
	// A queue is made for a moment if there is none.
	_, err = channel.QueueDeclare(queue, true, false, false, false, topology.PartitionArguments(m.r.From.QueueType))
	if err == nil {
		_, err = channel.QueueDelete(queue, false, false, false)
	}
	if err != nil {
		return fmt.Errorf("looking for the queue %s, which cannot be consumed: %w", queue, err)
	}
	return nil
}

// move moves what is in the old queues, and begins the new generation.
func (m *mover) move(ctx context.Context) error {
	if m.queues == nil { // this attempt has not ended the old generation
		m.writeFrom = time.Now().Add(partition.DeposedReadsFor)
		if err := m.openQueues(ctx); err != nil {
			return err
		}
	}
	if err := topology.DeclareQueues(m.openChannel, m.r.To, m.o.Log); err != nil {
		return err
	}
	// From the last one on: so requests of a user that come meanwhile go to the queue of an earlier
	// partition, which is moved later. In the end all go to the queue of the first partition.
	if err := topology.Unbind(m.openChannel, m.r.From, 1); err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	if err := m.empty(ctx, fail); err != nil {
		return err
	}
	if err := topology.Bind(m.openChannel, m.r.To); err != nil {
		return err
	}
	if err := topology.Unbind(m.openChannel, m.r.From, 0); err != nil {
		return err
	}
	if err := m.empty(ctx, fail); err != nil { // what has come meanwhile
		return err
	}
	if err := wait.For(ctx, time.Until(m.writeFrom)); err != nil {
		return err
	}
	return m.o.Records.BeginGeneration(ctx, m.record())
}

func (m *mover) openChannel() (topology.Channel, error) { return m.conn.Channel() }

// markerHeader identifies a marker. A marker is put at the end of a queue: when the mover receives it, it
// is the only consumer, and has received all that was in the queue. Others take it for a probe.
const markerHeader = "ident-marker"

// empty moves what is in the queues, one queue after another and each in order. fail ends ctx.
func (m *mover) empty(ctx context.Context, fail context.CancelCauseFunc) error {
	mark := rand.Text()
	for _, q := range m.queues {
		marker := topology.NewProbe()
		marker.Headers[markerHeader] = mark
		m.send(ctx, fail, q.name, marker, func(err error) {
			if err != nil {
				fail(fmt.Errorf("sending a marker to the queue %s: %w", q.name, err))
			}
		})
	}
	for _, q := range m.queues {
		if err := m.moveAll(ctx, fail, q, mark); err != nil {
			return err
		}
	}
	for m.received.Load() > 0 {
		if wait.For(ctx, time.Millisecond) != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// moveAll moves what comes from a queue, in order, up to the marker.
func (m *mover) moveAll(ctx context.Context, fail context.CancelCauseFunc, q *oldQueue, mark string) error {
	silent := time.NewTimer(silentFor)
	defer silent.Stop()
	for {
		silent.Reset(silentFor)
		select {
		case <-silent.C:
			return fmt.Errorf("the queue %s gives nothing: another consumer has it, or it has no leader", q.name)
		case d, ok := <-q.consumer.Deliveries:
			if !ok {
				return fmt.Errorf("consuming the queue %s: %w", q.name, q.consumer.EndCause())
			}
			m.received.Add(1)
			q.consumer.Track(&d)
			queue, copied, wanted := m.o.Copy(&d, time.Now(), m.r.To)
			if wanted {
				m.send(ctx, fail, queue, copied, func(err error) {
					if err == nil {
						m.moved.Add(1)
					} else {
						m.refuse(&d, err)
					}
					m.acknowledge(q, &d, fail)
				})
				continue
			}
			m.acknowledge(q, &d, fail)
			if d.Headers[markerHeader] == mark {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// send sends a message to a queue, and calls decided when the broker has it, or has refused it for good.
func (m *mover) send(ctx context.Context, fail context.CancelCauseFunc, queue string, message amqp.Publishing, decided func(error)) {
	select {
	case m.unsettled <- struct{}{}:
	case <-ctx.Done():
		return
	}
	m.copies.Publish(&publish.Message{Key: queue, Mandatory: true, Publishing: message, Settled: func(err error) {
		<-m.unsettled
		var rejected *publish.RejectedError
		if err != nil && !errors.As(err, &rejected) && !errors.Is(err, publish.ErrRefused) {
			fail(fmt.Errorf("sending to the queue %s: %w", queue, err))
			return
		}
		decided(err)
	}})
}

// refuse sends an error reply to a request whose copy the broker does not take, as when it is forwarded.
func (m *mover) refuse(d *amqp.Delivery, err error) {
	m.o.Log.Warn("request not moved: the broker does not take the copy", zap.Error(err))
	if queue, reply, ok := m.o.Refusal(d); ok {
		m.copies.Publish(&publish.Message{Key: queue, Publishing: reply, Settled: func(error) {}})
	}
}

func (m *mover) acknowledge(q *oldQueue, d *amqp.Delivery, fail context.CancelCauseFunc) {
	if _, err := q.consumer.Ack(d, true); err != nil {
		fail(err)
		return
	}
	m.received.Add(-1)
}

// clear moves what still comes to the old queues, and deletes them when they may be deleted.
func (m *mover) clear(ctx context.Context) error {
	for first := true; ; first = false {
		mayClear, err := m.mayClear(ctx)
		if err != nil {
			return err
		}
		if first || mayClear {
			if err := m.sweep(ctx, mayClear); err != nil {
				return err
			}
		}
		if mayClear {
			return m.o.Records.Finish(ctx, m.record())
		}
		if err := wait.For(ctx, lookEvery); err != nil {
			return err
		}
	}
}

func (m *mover) mayClear(ctx context.Context) (bool, error) {
	_, r, err := m.o.Records.Look(ctx)
	if err != nil {
		return false, err
	}
	return r != nil && r.Number == m.r.Number && r.MayClear, nil
}

// sweep moves what is in the old queues, and deletes them if last is true.
func (m *mover) sweep(ctx context.Context, last bool) error {
	defer m.close()
	if err := m.openQueues(ctx); err != nil {
		return err
	}
	if err := topology.Unbind(m.openChannel, m.r.From, 0); err != nil { // an instance that was frozen may have bound them again
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	if err := m.empty(ctx, fail); err != nil || !last {
		return err
	}
	channel, err := m.conn.Channel()
	if err != nil {
		return err
	}
	for _, q := range m.queues {
		if _, err := channel.QueueDelete(q.name, false, false, false); err != nil {
			return fmt.Errorf("deleting the queue %s: %w", q.name, err)
		}
		m.cleared.Add(1)
	}
	return nil
}
