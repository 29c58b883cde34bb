package repartition

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// confirmFor is how long the broker may take to confirm a copy.
	confirmFor = 5 * time.Second

	// connectFor is how long connecting to the broker may take.
	connectFor = 3 * time.Second

	// silentFor is how long a queue may give nothing, not even the marker, until it is left for later;
	// unmarkedFor if it has not taken the marker.
	silentFor   = 8 * time.Second
	unmarkedFor = time.Second

	// closeTimeout is how long a connection waits for the broker when it is closed.
	closeTimeout = time.Second
)

// A mover is an attempt with connections to the broker.
type mover struct {
	*attempt
	broker     *declarer  // its connection consumes the old queues
	publishing Connection // sends the copies

	silent    topology.SilentError // the queues that took nothing in when that was tried
	queues    []*oldQueue          // from the last partition's to the first one's; nil: they are not consumed yet
	copies    *publish.Publisher   // nil: it is not running yet
	unsettled chan struct{}        // has room for as many copies as may be unconfirmed
	bytes     *memory
	received  atomic.Int64 // messages that were received and are not acknowledged
	writeFrom time.Time    // until then a deposed holder may read users from memory

	running sync.WaitGroup
	cancel  context.CancelFunc // ends the publisher
	keep    func() bool        // has the connection of the publisher stay open after the attempt's context is done
}

// connect connects to the broker.
func (m *mover) connect(ctx context.Context) (err error) {
	if m.broker != nil {
		return nil
	}
	dialing, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	conn, err := m.o.Dial(dialing, "repartition")
	if err != nil {
		return err
	}
	m.broker = &declarer{conn: conn, queues: m.r.From.Partitions + m.r.To.Partitions}
	copying, err := m.o.Dial(dialing, "repartition, copies")
	if err != nil {
		return err
	}
	m.publishing = copying
	// While the broker blocks publishing, sending a copy ends in no other way.
	m.keep = context.AfterFunc(ctx, func() { copying.CloseDeadline(time.Now().Add(closeTimeout)) })
	running, stop := context.WithCancel(context.Background())
	m.cancel = stop
	copies := publish.New(publish.Options{Open: m.publishing.OpenPublishing, Timeout: confirmFor})
	m.copies, m.unsettled, m.bytes = copies, make(chan struct{}, maxUnconfirmed), &memory{size: m.o.Bytes}
	m.running.Go(func() { copies.Run(running) }) // an error means that the connection is lost, and the copies too
	return nil
}

// close closes the connections. The broker then gives back what was received and not acknowledged.
func (m *mover) close() {
	if m.cancel != nil {
		m.cancel()
		m.keep()
	}
	if m.publishing != nil {
		m.publishing.CloseDeadline(time.Now().Add(closeTimeout))
	}
	if m.broker != nil {
		m.broker.close()
	}
	m.running.Wait()
	m.broker, m.publishing, m.queues, m.silent = nil, nil, nil, nil
}

// findSilent finds out which queues take nothing in: of the old generation, of the new one, and the shared one.
func (m *mover) findSilent(ctx context.Context) (topology.SilentError, error) {
	dialing, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	conn, err := m.o.Dial(dialing, "repartition, probes")
	if err != nil {
		return nil, err
	}
	return ProberOver(conn).FindSilent(ctx, append(topology.QueuesOf(m.r.From, m.r.To), topology.RequestQueue))
}

// move moves what is in the old queues, and begins the new generation.
func (m *mover) move(ctx context.Context) (err error) {
	if m.queues == nil { // this attempt has not ended the old generation
		m.writeFrom = time.Now().Add(partition.DeposedReadsFor)
		if err := m.open(ctx); err != nil {
			return err
		}
	}
	down := m.declareMissing(ctx)
	// From the last one on: so requests of a user that come meanwhile go to the queue of an earlier
	// partition, which is moved later. In the end all go to the queue of the first partition that is available,
	// or to the shared queue if there is none.
	if err := topology.Unbind(m.openChannel, m.r.From, m.firstAvailable()...); err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	if err := m.empty(ctx, fail); err != nil {
		return err
	}
	if err := topology.Bind(m.openChannel, m.r.To, down); err != nil {
		return err
	}
	if err := topology.Unbind(m.openChannel, m.r.From); err != nil {
		return err
	}
	if err := m.empty(ctx, fail); err != nil { // what has come meanwhile
		return err
	}
	if err := wait.For(ctx, time.Until(m.writeFrom)); err != nil {
		return err
	}
	m.setNote("")
	if left := m.left(); len(left) > 0 {
		m.setNote(notAvailable+"%s", strings.Join(left, ", "))
	}
	return m.o.Records.BeginGeneration(ctx, m.record())
}

// firstAvailable returns the first old partition, from 0 on, whose queue is consumed, if there is one.
func (m *mover) firstAvailable() []int {
	for _, q := range slices.Backward(m.queues) {
		if q.left == nil {
			return []int{q.partition}
		}
	}
	return nil
}

// declareMissing declares queues of the new generation that were deleted. It returns the partitions, from
// 0 on, whose queues are not available.
func (m *mover) declareMissing(ctx context.Context) (down []int) {
	for n := range m.r.To.Partitions {
		queue := topology.PartitionQueue(m.r.To.First + n)
		if errors.Is(m.silent[queue], publish.ErrReturned) && m.broker.declare(ctx, queue, m.r.To) == nil {
			delete(m.silent, queue)
		}
		if m.silent[queue] != nil {
			down = append(down, n)
		}
	}
	return down
}

// open connects, finds out which queues are available, and consumes the old ones.
func (m *mover) open(ctx context.Context) (err error) {
	if err := m.connect(ctx); err != nil {
		return err
	}
	if m.silent, err = m.findSilent(ctx); err != nil {
		return err
	}
	return m.openQueues(ctx)
}

func (m *mover) openChannel() (topology.Channel, error) { return m.broker.conn.OpenDeclaring() }

// markerHeader identifies a marker. A marker is put at the end of a queue: when the mover receives it, it
// is the only consumer, and has received all that was in the queue. Others take it for a probe.
const markerHeader = "ident-marker"

// empty moves what is in the queues, one queue after another and each in order. Queues that give nothing are
// left for later. fail ends ctx.
func (m *mover) empty(ctx context.Context, fail context.CancelCauseFunc) error {
	mark := rand.Text()
	for _, q := range m.queues {
		if q.left != nil {
			continue
		}
		marker := topology.NewProbe()
		marker.Headers[markerHeader] = mark
		marker.Expiration = "" // emptying the queues before may take long
		q.unmarked.Store(nil)
		m.send(ctx, fail, q.name, marker, func(err error) {
			if err != nil {
				q.unmarked.Store(&err)
			}
		})
	}
	marked := time.Now()
	for _, q := range m.queues {
		if q.left != nil {
			continue
		}
		if err := m.moveAll(ctx, fail, q, mark, marked); err != nil {
			return err
		}
		if q.left != nil && m.phase != partition.Clearing { // else the note says so
			m.o.Log.Warn("requests are left in an old queue that is not available; they are moved later", zap.String("queue", q.name), zap.Error(q.left))
		}
	}
	for m.received.Load() > 0 {
		if wait.For(ctx, time.Millisecond) != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// moveAll moves what comes from a queue, in order, up to the marker, or until the queue is silent for too
// long. last is when it was alive last.
func (m *mover) moveAll(ctx context.Context, fail context.CancelCauseFunc, q *oldQueue, mark string, last time.Time) error {
	q.current.Store(true)
	defer q.current.Store(false)
	look := time.NewTicker(5 * pollEvery)
	defer look.Stop()
	for {
		select {
		case d, ok := <-q.intake.received:
			last = time.Now()
			if ok && m.moveOne(ctx, fail, q, &d) == mark {
				return nil
			}
			if ok {
				continue
			}
			if err := m.resume(ctx, q); err != nil || q.left != nil {
				return err
			}
		case <-look.C:
			if err := q.silence(time.Since(last)); err != nil && len(q.intake.received) == 0 {
				q.left = err
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// silence returns why a queue is left for later that has been silent for so long, nil if it is not yet.
func (q *oldQueue) silence(silent time.Duration) error {
	if unmarked := q.unmarked.Load(); unmarked != nil && silent > unmarkedFor {
		return fmt.Errorf("it takes nothing in: %w", *unmarked)
	}
	if silent > silentFor {
		return errors.New("it gives nothing: another consumer has it, or it has no leader")
	}
	return nil
}

// resume goes on after the deliveries of a queue have ended.
func (m *mover) resume(ctx context.Context, q *oldQueue) error {
	if q.intake.over.Load() {
		return m.reopen(ctx, q)
	}
	cause := fmt.Errorf("consuming the queue %s: %w", q.name, q.consumer.EndCause())
	if m.broker.conn.IsClosed() {
		return cause
	}
	q.left = cause
	return nil
}

// moveOne moves a message. It returns the mark if that is a marker.
func (m *mover) moveOne(ctx context.Context, fail context.CancelCauseFunc, q *oldQueue, d *amqp.Delivery) string {
	m.received.Add(1)
	c := q.consumer
	c.Track(d)
	done := func() {
		q.held.Add(-1) // there is room for what the broker sends then
		m.bytes.used.Add(-int64(consume.Size(d)))
		if _, err := c.Ack(d, true); err != nil {
			fail(err)
			return
		}
		m.received.Add(-1)
	}
	queue, copied, wanted := m.o.Copy(d, time.Now(), m.r.To)
	if !wanted {
		done()
		mark, _ := d.Headers[markerHeader].(string)
		return mark
	}
	if m.silent[queue] != nil {
		queue = topology.RequestQueue // an instance takes it there, and tries again
	}
	if err := m.silent[queue]; err != nil {
		m.refuse(d, err)
		done()
		return ""
	}
	m.send(ctx, fail, queue, copied, func(err error) {
		switch {
		case err == nil:
			m.moved.Add(1)
		case errors.Is(err, publish.ErrReturned) && queue != topology.RequestQueue:
			fail(fmt.Errorf("sending to the queue %s: %w", queue, err)) // another attempt finds out why
			return
		default:
			m.refuse(d, err)
		}
		done()
	})
	return ""
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
		if errors.Is(err, publish.ErrUnconfirmed) || errors.Is(err, publish.ErrLost) {
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
