package membership

import (
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/ownership"
)

var errCancelled = errors.New("the broker cancelled the consumer: the queue was deleted, or a message was not acknowledged within consumer_timeout")

// runReceiver handles deliveries until the membership is lost.
func (m *Membership) runReceiver() {
	for {
		select {
		case d, ok := <-m.deliveries:
			if !ok {
				m.lose(m.lossCause())
				return
			}
			if err := d.Ack(false); err != nil {
				continue // the channel is closed, so the deliveries end as well
			}
			if err := m.handleDelivery(&d); err != nil {
				m.malformed.Log(1, zap.Error(err))
			}
		case <-m.lost:
			return
		}
	}
}

// lossCause returns the reason for which the deliveries have ended: the channel was
// closed, or the consumer alone was cancelled.
func (m *Membership) lossCause() error {
	if !m.channel.IsClosed() {
		return errCancelled
	}
	if cause := <-m.closing; cause != nil {
		return fmt.Errorf("the channel was lost: %w", cause)
	}
	return errors.New("the connection was closed")
}

// handleDelivery handles a message. It returns an error if the message is malformed.
func (m *Membership) handleDelivery(d *amqp.Delivery) error {
	switch d.Type {
	case typeHeartbeat:
		msg, err := decodeMessage(d.Body)
		if err != nil {
			return err
		}
		m.options.OnEvent(ownership.MessageReceived{Message: msg})
		return nil
	case typeProbe:
		return nil // its arrival is all that the probe is for
	case typeLook:
		m.options.OnLook()
		return nil
	case typeStatus, typeUser, typeDrain, typeUndrain, typeMove, typeUnmove:
		return m.handleRequest(d)
	default:
		return errors.New("unknown message type")
	}
}
