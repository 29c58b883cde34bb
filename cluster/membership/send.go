package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/ownership"
)

// maxUnconfirmed is how many messages may be sent and not confirmed.
const maxUnconfirmed = 256

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
// were dropped. It returns an error if ctx ends or the membership is lost before.
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
			if err := m.publish(p); err != nil {
				m.lose(fmt.Errorf("sending to the members: %w", err))
				return
			}
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

func (m *Membership) publish(p outboundMessage) error {
	_, err := m.channel.PublishWithDeferredConfirm(p.exchange, p.key, p.kind == probe, false, amqp.Publishing{
		Type:          p.msgType,
		ContentType:   "application/json",
		CorrelationId: p.correlation,
		Body:          p.body,
	})
	return err
}

// runConfirmations handles returns and confirmations until the channel is closed.
func (m *Membership) runConfirmations() {
	for m.returned != nil || m.confirmed != nil {
		select {
		case r, ok := <-m.returned:
			if !ok {
				m.returned = nil
			} else if member, ok := m.probedMember(r.RoutingKey); ok && r.ReplyCode == amqp.NoRoute {
				m.options.OnEvent(ownership.MemberGone{Member: member})
			}
		case _, ok := <-m.confirmed:
			if !ok {
				m.confirmed = nil
				continue
			}
			m.mu.Lock()
			m.queue.confirmOldest()
			m.completeFlushesLocked()
			m.mu.Unlock()
			m.ready.Notify()
		}
	}
}

// probedMember returns the member that the open probe to the queue is for.
func (m *Membership) probedMember(queue string) (ownership.Member, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	member, ok := m.queue.probes[queue]
	return member, ok
}
