package membership

import (
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/ownership"
)

// Exchange is the durable fanout exchange through which a message reaches all members.
const Exchange = "glotpod.ident.members"

const (
	memberPrefix = "glotpod.ident.member/"
	replyPrefix  = "glotpod.ident.reply/"
)

// The limits of each queue of this package. If a queue is full, its oldest messages are
// dropped.
const (
	queuedMessages = 10_000
	queuedBytes    = 64 << 20
	queuedFor      = time.Minute
)

// QueueOf returns the name of a member's own queue.
func QueueOf(m ownership.Member) string { return memberPrefix + m.String() }

// Declare declares the exchange.
func Declare(channel *amqp.Channel) error {
	if err := channel.ExchangeDeclare(Exchange, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		return fmt.Errorf("declaring the exchange %s: %w", Exchange, err)
	}
	return nil
}

// ErrQueueLimit means that the broker makes no more queues.
var ErrQueueLimit = errors.New("the broker makes no more queues")

// declareExclusive declares a queue that the broker deletes together with its consumer or
// with the connection.
func declareExclusive(channel *amqp.Channel, queue string) error {
	_, err := channel.QueueDeclare(queue, false, true, true, false, amqp.Table{
		"x-max-length":       queuedMessages,
		"x-max-length-bytes": queuedBytes,
		"x-message-ttl":      queuedFor.Milliseconds(),
	})
	if broker.IsCode(err, amqp.PreconditionFailed) {
		// No other queue ever had this name.
		return fmt.Errorf("declaring the queue %s: %w: %w", queue, ErrQueueLimit, err)
	} else if err != nil {
		return fmt.Errorf("declaring the queue %s: %w", queue, err)
	}
	return nil
}
