package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/ownership"
)

const (
	// maxUnconfirmed is how many messages may be sent and not confirmed. RabbitMQ stops
	// reading from a connection with 400 on one channel that a queue has not taken in.
	maxUnconfirmed = 256

	// confirmTimeout is how long the broker may take to confirm a message. A broadcast is
	// not confirmed while any member's queue takes nothing in.
	confirmTimeout = 2 * time.Second
)

var errSendQueueFull = errors.New("the broker accepts less than there is to send")

// Broadcast sends a message to all members, after all earlier messages. It does not wait.
// If the broker accepts less than there is to send, the oldest unsent messages are
// dropped.
func (m *Membership) Broadcast(msg ownership.Message) { m.sendMessage(msg, Exchange, "") }

// Send sends a message to one member, in order with the broadcasts. It does not wait.
func (m *Membership) Send(to ownership.Member, msg ownership.Message) {
	m.sendMessage(msg, "", QueueOf(to))
}

func (m *Membership) sendMessage(msg ownership.Message, exchange, key string) {
	body := encodeMessage(msg)
	if len(body) > maxBody {
		m.unsent.Log(1, zap.Error(fmt.Errorf("message of %d bytes", len(body))))
		return
	}
	m.enqueue(outboundMessage{kind: message, exchange: exchange, key: key, msgType: typeHeartbeat, body: body})
}

// Probe asks the broker whether a member's queue exists. If it does not, OnEvent gets an
// [ownership.MemberGone]. If it exists, or the broker does not reply, nothing happens.
// Probe does not wait. It does nothing while an earlier probe of the member is open.
func (m *Membership) Probe(member ownership.Member) {
	m.enqueue(outboundMessage{kind: probe, member: member, key: QueueOf(member), msgType: typeProbe, body: encodeBody(envelope{V: wireVersion})})
}

// Flush waits until the broker has confirmed all messages sent so far, except those that
// were dropped or that it does not confirm in time. It returns an error if ctx ends or the membership is lost before.
func (m *Membership) Flush(ctx context.Context) error {
	done := m.startFlush()
	select {
	case <-done:
	case <-m.lost:
	case <-ctx.Done():
	}
	select {
	case <-done:
		return nil
	default:
		return fmt.Errorf("flushing messages to the members: %w", cmp.Or(m.Err(), ctx.Err()))
	}
}

// ResetDeadlines begins the time limits of all messages anew. It is called while the
// broker blocks the connection, and so confirms nothing.
func (m *Membership) ResetDeadlines() { m.publisher.ResetDeadlines() }

// A flush waits for all messages up to a number.
type flush struct {
	lastNumber uint64
	done       chan struct{}
}

// startFlush returns a channel that is closed when all messages queued so far are
// confirmed or dropped. It is never closed if the membership is lost.
func (m *Membership) startFlush() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := flush{lastNumber: m.queue.lastNumber, done: make(chan struct{})}
	if m.err != nil {
		return f.done // never
	}
	m.flushes = append(m.flushes, f)
	m.completeFlushesLocked()
	return f.done
}

// completeFlushesLocked closes the channels of the flushes that are complete.
func (m *Membership) completeFlushesLocked() {
	var waiting []flush
	for _, f := range m.flushes {
		if m.queue.isSettled(f.lastNumber) {
			close(f.done)
		} else {
			waiting = append(waiting, f)
		}
	}
	m.flushes = waiting
}

// enqueue queues a message to be sent.
func (m *Membership) enqueue(p outboundMessage) {
	m.mu.Lock()
	full := m.err == nil && !m.queue.add(p)
	if full {
		m.completeFlushesLocked()
	}
	m.mu.Unlock()
	if full {
		m.unsent.Log(1, zap.Error(errSendQueueFull))
	}
	m.ready.Notify()
}

// runSender sends the queued messages until the membership is lost.
func (m *Membership) runSender() {
	for {
		select {
		case <-m.ready:
		case <-m.lost:
			return
		}
		for {
			p, ok := m.nextOutbound()
			if !ok {
				break
			}
			m.publish(p)
		}
	}
}

// nextOutbound takes a message that may be sent now from the queue.
func (m *Membership) nextOutbound() (outboundMessage, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return outboundMessage{}, false
	}
	return m.queue.take()
}

func (m *Membership) publish(p outboundMessage) {
	var headers amqp.Table
	if p.kind == probe {
		headers = make(amqp.Table)
	}
	m.publisher.Publish(&publish.Message{
		Exchange: p.exchange, Key: p.key, Mandatory: p.kind == probe,
		Publishing: amqp.Publishing{
			Type:          p.msgType,
			ContentType:   "application/json",
			CorrelationId: p.correlation,
			Headers:       headers,
			Body:          p.body,
		},
		Settled: func(err error) { m.settled(p, err) },
	})
}

// settled handles the outcome of a message that was sent. A message that the broker has
// not confirmed counts as sent: one member's queue may take nothing in.
func (m *Membership) settled(p outboundMessage, err error) {
	var rejected *publish.RejectedError
	switch {
	case errors.Is(err, publish.ErrReturned):
		m.options.OnEvent(ownership.MemberGone{Member: p.member})
	case errors.As(err, &rejected) && rejected.Cause.Code != amqp.PreconditionFailed:
		m.lose(fmt.Errorf("sending to the members: %w", err)) // the exchange is missing
	case errors.As(err, &rejected): // the message is too large
		m.unsent.Log(1, zap.Error(fmt.Errorf("message of %d bytes: %w", len(p.body), err)))
	}
	m.mu.Lock()
	m.queue.settle(p)
	m.completeFlushesLocked()
	m.mu.Unlock()
	m.ready.Notify()
}

// runPublisher publishes until the membership is lost.
func (m *Membership) runPublisher() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m.workers.Go(func() {
		<-m.lost
		cancel()
	})
	if err := m.publisher.Run(ctx); err != nil {
		m.lose(fmt.Errorf("sending to the members: %w", err))
	}
}
