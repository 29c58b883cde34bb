package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/ownership"
)

// maxUnconfirmed is how much is sent ahead of the broker's confirmations.
const maxUnconfirmed = 256

var errFull = errors.New("the broker takes in less than there is to send")

// Broadcast publishes a message to all members, after all that were broadcast
// before. It does not wait. Where the broker takes in less than there is to
// send, the oldest that was not sent is thrown away.
func (m *Membership) Broadcast(msg ownership.Message) { m.tell(msg, Exchange, "") }

// Send sends a message to one member, as Broadcast does to all.
func (m *Membership) Send(to ownership.Member, msg ownership.Message) {
	m.tell(msg, "", QueueOf(to))
}

func (m *Membership) tell(msg ownership.Message, exchange, key string) {
	body := encodeMessage(msg)
	if len(body) > maxBody {
		m.discarded.make(fmt.Errorf("a message of %d bytes", len(body)))
		return
	}
	m.put(parcel{kind: broadcast, exchange: exchange, key: key, name: typeHeartbeat, body: body})
}

// Probe asks the broker whether a member's queue is there. If it is not, Event
// is told that the member is gone; else, or if the broker does not say, nothing
// happens. It does not wait. While an earlier question about the same member is
// open, it does nothing.
func (m *Membership) Probe(who ownership.Member) {
	m.put(parcel{kind: probe, who: who, key: QueueOf(who), name: typeProbe, body: encode(envelope{V: wireVersion})})
}

// Flush waits until the broker has confirmed all that was broadcast so far, but
// for what had to be thrown away. It returns an error if ctx ends before, or if
// the membership is lost.
func (m *Membership) Flush(ctx context.Context) error {
	done := m.flushed()
	select {
	case <-done:
	case <-m.lost:
	case <-ctx.Done():
	}
	select {
	case <-done:
		return nil
	default:
		return fmt.Errorf("sending what was broadcast: %w", cmp.Or(m.Err(), ctx.Err()))
	}
}

// A flush waits for all parcels up to a number.
type flush struct {
	last uint64
	done chan struct{}
}

// flushed returns a channel that is closed when all that was put so far is
// settled, which nothing is any more once the membership is lost.
func (m *Membership) flushed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := flush{last: m.outbound.last, done: make(chan struct{})}
	if m.err != nil {
		return f.done // never
	}
	m.flushes = append(m.flushes, f)
	m.settleLocked()
	return f.done
}

// settleLocked tells those who wait for what is settled now.
func (m *Membership) settleLocked() {
	var waiting []flush
	for _, f := range m.flushes {
		if m.outbound.settled(f.last) {
			close(f.done)
		} else {
			waiting = append(waiting, f)
		}
	}
	m.flushes = waiting
}

// put has a parcel sent in its turn.
func (m *Membership) put(p parcel) {
	m.mu.Lock()
	full := m.err == nil && !m.outbound.put(p)
	if full {
		m.settleLocked()
	}
	m.mu.Unlock()
	if full {
		m.discarded.make(errFull)
	}
	m.wake()
}

// wake has the sender look whether there is something to send.
func (m *Membership) wake() {
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// send sends what is put, until the membership is lost.
func (m *Membership) send() {
	for {
		select {
		case <-m.ready:
		case <-m.lost:
			return
		}
		for {
			p, ok := m.next()
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

// next takes a parcel that is to be sent now.
func (m *Membership) next() (parcel, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return parcel{}, false
	}
	return m.outbound.next()
}

func (m *Membership) publish(p parcel) error {
	_, err := m.channel.PublishWithDeferredConfirm(p.exchange, p.key, p.kind == probe, false, amqp.Publishing{
		Type:          p.name,
		ContentType:   "application/json",
		CorrelationId: p.correlation,
		Body:          p.body,
	})
	return err
}

// confirm takes the broker's word on what was sent, until the channel is closed.
func (m *Membership) confirm() {
	for m.returned != nil || m.confirmed != nil {
		select {
		case r, ok := <-m.returned:
			if !ok {
				m.returned = nil
			} else if who, ok := m.probed(r.RoutingKey); ok && r.ReplyCode == amqp.NoRoute {
				m.o.OnEvent(ownership.MemberGone{Member: who})
			}
		case _, ok := <-m.confirmed:
			if !ok {
				m.confirmed = nil
				continue
			}
			m.mu.Lock()
			m.outbound.confirm()
			m.settleLocked()
			m.mu.Unlock()
			m.wake()
		}
	}
}

// probed returns whom the open question about a queue is about.
func (m *Membership) probed(queue string) (ownership.Member, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	who, ok := m.outbound.probes[queue]
	return who, ok
}
