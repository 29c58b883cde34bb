package membership

import (
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/ownership"
)

var errCancelled = errors.New("the broker cancelled the consumer: the queue was deleted")

// receive takes what comes until the membership is lost.
func (m *Membership) receive() {
	for {
		select {
		case d, ok := <-m.deliveries:
			if !ok {
				m.lose(m.endOfDeliveries())
				return
			}
			if err := d.Ack(false); err != nil {
				continue // the deliveries end as well
			}
			if err := m.take(&d); err != nil {
				m.garbage.make(err)
			}
		case <-m.lost:
			return
		}
	}
}

// endOfDeliveries finds out why there are no more: the channel is gone, or the
// consumer alone.
func (m *Membership) endOfDeliveries() error {
	if !m.channel.IsClosed() {
		return errCancelled
	}
	if cause := <-m.closing; cause != nil {
		return fmt.Errorf("the channel was lost: %w", cause)
	}
	return errors.New("the connection was closed")
}

// take takes a message. An error says why it was of no use.
func (m *Membership) take(d *amqp.Delivery) error {
	switch d.Type {
	case typeHeartbeat:
		msg, err := decodeMessage(d.Body)
		if err != nil {
			return err
		}
		m.o.OnEvent(ownership.MessageReceived{Message: msg})
		return nil
	case typeProbe:
		return nil // it has come, which was the question
	case typeStatus, typeDrain, typeUndrain:
		return m.takeRequest(d)
	default:
		return errors.New("an unknown type")
	}
}
