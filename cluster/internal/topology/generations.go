package topology

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/partition"

	amqp "github.com/rabbitmq/amqp091-go"
)

// DeclareQueues declares the partition queues of a generation, and binds none of them. The error is a
// [SetupError] if only the broker's operator can remove its cause.
func DeclareQueues(open func() (Channel, error), g partition.Generation, log *zap.Logger) error {
	t := New(Options{Open: open, First: g.First, Partitions: g.Partitions, QueueType: g.QueueType, Log: log})
	down, err := t.declareQueues()
	if err != nil {
		return asSetupError(err)
	}
	if len(down) > 0 {
		return fmt.Errorf("%w: %v", errQueueDown, down)
	}
	return nil
}

// Bind binds the partition queues of a generation to the direct exchange, in order, after those that are
// bound. If the broker lacks the exchange, it does nothing.
func Bind(open func() (Channel, error), g partition.Generation) error {
	err := New(Options{Open: open, First: g.First, Partitions: g.Partitions}).bindQueues(nil)
	if broker.IsCode(err, amqp.NotFound) {
		return nil
	}
	return err
}

// Unbind unbinds the queues of the partitions of a generation from the direct exchange, beginning with
// the last one, except those of so many first ones. The requests that went to an unbound queue go to
// those of earlier partitions, and all others where they went before. If no queue is left, they go to the
// shared queue.
func Unbind(open func() (Channel, error), g partition.Generation, except int) error {
	channel, err := open()
	if err != nil {
		return err
	}
	defer channel.Close()
	for p := g.End() - 1; p >= g.First+except; p-- {
		err := channel.QueueUnbind(PartitionQueue(p), weight, DirectExchange, nil)
		if broker.IsCode(err, amqp.NotFound) {
			return nil // there is no such exchange
		}
		if err != nil {
			return fmt.Errorf("unbinding the queue %s: %w", PartitionQueue(p), err)
		}
	}
	return nil
}
