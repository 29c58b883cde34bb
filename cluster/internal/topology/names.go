package topology

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/partition"
)

// Names that callers and subscribers know.
const (
	// RequestExchange takes requests by their operation.
	RequestExchange = "amq.topic"

	// NotificationExchange takes notifications.
	NotificationExchange = "amq.topic"

	// RequestPrefix begins the routing key, or the type, of each request. The name of
	// the operation follows.
	RequestPrefix = "rpc.user."
	requestKeys   = RequestPrefix + "#"

	// DirectExchange takes requests with the user's id as the routing key. Their type is
	// what would be the routing key at RequestExchange.
	DirectExchange = "glotpod.ident"

	// RequestQueue is the shared queue. It gets all requests that are not sent to the
	// direct exchange.
	RequestQueue = "glotpod.rpc/ident"
)

const (
	// unroutedExchange gets the requests for which the direct exchange has no queue,
	// and leads to the shared queue.
	unroutedExchange = DirectExchange + ".unrouted"

	// hashExchange is the type of the direct exchange. A plugin provides it.
	hashExchange = "x-consistent-hash"
)

// Types of the partition queues.
const (
	Quorum  = "quorum"
	Classic = "classic"
)

// Stream is a type of queues from which each consumer gets each message.
const Stream = "stream"

// typeArgument is the argument of a declaration that has the type of the queue.
const typeArgument = "x-queue-type"

// unlimitedDeliveries is the delivery limit of partition queues. RabbitMQ 4 drops a
// message after 20 deliveries unless the queue has a limit of its own. RabbitMQ 3.10
// keeps the order of messages when a consumer is cancelled only if there is a limit:
// then messages on the way to the cancelled consumer come to the next one first, and
// not behind later messages.
const unlimitedDeliveries = 1 << 30

// PartitionQueue returns the name of a partition's queue.
func PartitionQueue(partition int) string {
	return fmt.Sprintf("%s/%04d", RequestQueue, partition)
}

// QueuesOf returns the names of the partition queues of generations.
func QueuesOf(generations ...partition.Generation) (queues []string) {
	for _, g := range generations {
		for p := g.First; p < g.End(); p++ {
			queues = append(queues, PartitionQueue(p))
		}
	}
	return queues
}

// PartitionArguments returns the arguments with which partition queues of a type are
// declared. A quorum queue has a single active consumer, and gives the next consumer
// what that one did not acknowledge. A classic queue with a single active consumer
// would lose the waiting consumer, so its consumer is exclusive instead. Its type is given
// because a virtual host may have another default; to a classic queue that was declared
// without it, this makes no difference.
func PartitionArguments(queueType string) amqp.Table {
	if queueType == Classic {
		return amqp.Table{typeArgument: Classic}
	}
	return amqp.Table{
		typeArgument:               Quorum,
		"x-single-active-consumer": true,
		"x-delivery-limit":         int32(unlimitedDeliveries),
	}
}
