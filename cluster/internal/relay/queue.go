package relay

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/partition"
)

const queuePrefix = "glotpod.ident.relay/"

// The limits of an instance's queue. What the broker drops goes through the queues of the
// partitions.
const (
	queuedBytes        = 64 << 20
	queuedMilliseconds = 1000
)

// QueueOf returns the name of the queue for what is relayed to an instance.
func QueueOf(m partition.Member) string { return queuePrefix + m.String() }

// Declare declares the queue of an instance. The broker deletes it together with its consumer or
// with the connection.
func Declare(channel *amqp.Channel, m partition.Member) error {
	queue := QueueOf(m)
	_, err := channel.QueueDeclare(queue, false, true, true, false, amqp.Table{
		"x-max-length-bytes": queuedBytes,
		"x-message-ttl":      queuedMilliseconds,
	})
	if err != nil {
		return fmt.Errorf("declaring the queue %s: %w", queue, err)
	}
	return nil
}
