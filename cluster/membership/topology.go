package membership

import (
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/ownership"
)

// Exchange is the durable fanout exchange by which a message reaches all
// members.
const Exchange = "glotpod.ident.members"

const (
	memberPrefix = "glotpod.ident.member/"
	replyPrefix  = "glotpod.ident.reply/"
)

// What a queue of this package holds at most. What is older makes room.
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

// declareOwn declares a queue that ends with its consumer, and with the
// connection in any case.
func declareOwn(channel *amqp.Channel, queue string) error {
	_, err := channel.QueueDeclare(queue, false, true, true, false, amqp.Table{
		"x-max-length":       queuedMessages,
		"x-max-length-bytes": queuedBytes,
		"x-message-ttl":      queuedFor.Milliseconds(),
	})
	if err != nil {
		return fmt.Errorf("declaring the queue %s: %w", queue, err)
	}
	return nil
}
