package topology

import (
	"fmt"
	"slices"

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
// bound, except those of the partitions that are down. If the broker lacks the exchange, it does nothing.
func Bind(open func() (Channel, error), g partition.Generation, down []int) error {
	err := New(Options{Open: open, First: g.First, Partitions: g.Partitions}).bindQueues(down)
	if broker.IsCode(err, amqp.NotFound) {
		return nil
	}
	return err
}

// Unbind unbinds the queues of the partitions of a generation from the direct exchange, beginning with
// the last one, except those of the partitions keep, from 0 on. The requests that went to an unbound queue go to
// those of earlier partitions, and all others where they went before. If no queue is left, they go to the
// shared queue. A queue whose node is down gets no requests, and is left out.
func Unbind(open func() (Channel, error), g partition.Generation, keep ...int) error {
	channel, err := open()
	if err != nil {
		return err
	}
	defer func() { channel.Close() }()
	err = awaitChannel(channel)
	if broker.IsCode(err, amqp.NotFound) {
		return nil // there is no such exchange
	}
	for p := g.End() - 1; err == nil && p >= g.First; p-- {
		if slices.Contains(keep, p-g.First) {
			continue
		}
		err = channel.QueueUnbind(PartitionQueue(p), weight, DirectExchange, nil)
		switch {
		case broker.IsCode(err, amqp.NotFound): // the broker has closed the channel
			channel.Close()
			if channel, err = open(); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("unbinding the queue %s: %w", PartitionQueue(p), err)
		}
	}
	return err
}
