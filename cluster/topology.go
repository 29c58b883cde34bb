package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/cluster/broker"
)

// Names that callers and subscribers know.
const (
	requestExchange = "amq.topic"
	requestKeys     = "rpc.user.#"
	requestPrefix   = "rpc.user."

	// directExchange takes requests whose routing key is the user's id and
	// whose type is what the routing key would be otherwise.
	directExchange = "glotpod.ident"
)

// RequestQueue is the shared queue, by which requests come whose caller does not
// take the direct way.
const RequestQueue = "glotpod.rpc/ident"

// unroutedExchange has what the direct exchange has no queue for, and leads to
// the shared queue.
const unroutedExchange = directExchange + ".unrouted"

// hashExchange is the type of the direct exchange, which a plugin provides.
const hashExchange = "x-consistent-hash"

const (
	queueQuorum  = "quorum"
	queueClassic = "classic"

	// partitionShare is how many times fewer requests are taken from a
	// partition's queue at a time than from the shared one.
	partitionShare = 8

	// neverDropped is after how many deliveries the broker may drop a message,
	// which RabbitMQ 4 does after 20 unless it is told otherwise. That there is a
	// limit has RabbitMQ 3.10 keep the order when a consumer is cancelled: what is on
	// the way to it then comes to the next one first, and not behind later messages.
	neverDropped = 1 << 30
)

// PartitionQueue returns the name of a partition's queue.
func PartitionQueue(partition int) string {
	return fmt.Sprintf("%s/%04d", RequestQueue, partition)
}

// partitionArguments returns the arguments of the partitions' queues. A quorum
// queue has one consumer at a time, and gives the next one what that one leaves;
// a classic queue would lose its successor, so its consumer is exclusive.
func partitionArguments(queueType string) amqp.Table {
	if queueType == queueClassic {
		return nil
	}
	return amqp.Table{
		"x-queue-type":             queueQuorum,
		"x-single-active-consumer": true,
		"x-delivery-limit":         int32(neverDropped),
	}
}

// A SetupError says that the broker is not set up as the service needs it, which
// only its operator can mend.
type SetupError struct {
	What string
	err  error
}

func (e *SetupError) Error() string { return e.What + ": " + e.err.Error() }

func (e *SetupError) Unwrap() error { return e.err }

// setup makes a SetupError of what only the broker's operator can mend.
func setup(err error) error {
	switch {
	case isCode(err, amqp.AccessRefused):
		return &SetupError{"the broker's user may not configure, write and read ^glotpod and amq.topic", err}
	case isCode(err, amqp.PreconditionFailed):
		return &SetupError{"the broker has something of the same name and another kind", err}
	}
	return err
}

// declareShared declares the shared queue, just as it has always been declared.
func declareShared(conn *amqp.Connection) error {
	channel, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	defer channel.Close()
	if _, err := channel.QueueDeclare(RequestQueue, true, false, false, false, nil); err != nil {
		return setup(fmt.Errorf("declaring the queue %s: %w", RequestQueue, err))
	}
	if err := channel.QueueBind(RequestQueue, requestKeys, requestExchange, false, nil); err != nil {
		return setup(fmt.Errorf("binding the queue %s: %w", RequestQueue, err))
	}
	return nil
}

// declareCluster declares the partitions' queues and what leads to them. Whoever
// comes first does it; others find it done.
func declareCluster(ctx context.Context, conn *amqp.Connection, o Options) error {
	if err := declareQueues(conn, o); err != nil {
		return setup(err)
	}
	direct, err := declareDirect(ctx, conn, o)
	if err != nil || !direct {
		return err
	}
	return setup(bindQueues(conn, o))
}

// declarers is how many channels declare queues at a time. The broker takes
// some milliseconds for a new one.
const declarers = 4

// declareQueues declares the partitions' queues.
func declareQueues(conn *amqp.Connection, o Options) error {
	arguments := partitionArguments(o.QueueType)
	var group errgroup.Group
	for first := range min(declarers, o.Partitions) {
		group.Go(func() error {
			channel, err := conn.Channel()
			if err != nil {
				return fmt.Errorf("opening a channel: %w", err)
			}
			defer channel.Close()
			for p := first; p < o.Partitions; p += declarers {
				if _, err := channel.QueueDeclare(PartitionQueue(p), true, false, false, false, arguments); err != nil {
					return fmt.Errorf("declaring the queue %s: %w", PartitionQueue(p), err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// weight is how many buckets of the exchange a partition's queue has, as the
// routing key of its binding.
const weight = "1"

// bindQueues binds the partitions' queues in order. What is bound already stays
// where it is, so that instances that do this at the same time do not disturb
// one another: whoever binds a queue has bound all before it.
func bindQueues(conn *amqp.Connection, o Options) error {
	channel, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	defer channel.Close()
	for p := range o.Partitions {
		if err := channel.QueueBind(PartitionQueue(p), weight, directExchange, true, nil); err != nil {
			return fmt.Errorf("binding the queue %s: %w", PartitionQueue(p), err)
		}
	}
	return complete(channel)
}

// complete waits until the broker has done what was sent on a channel without
// waiting for it.
func complete(channel *amqp.Channel) error {
	if err := channel.ExchangeDeclarePassive(directExchange, hashExchange, true, false, false, false, nil); err != nil {
		return fmt.Errorf("looking for the exchange %s: %w", directExchange, err)
	}
	return nil
}

// rebindQueues binds the partitions' queues anew, in order. Meanwhile requests
// that come the direct way get into other queues than they should, or into the
// shared one, and are passed on from there.
func rebindQueues(conn *amqp.Connection, o Options) error {
	channel, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	defer channel.Close()
	if err := declareQueues(conn, o); err != nil {
		return err // lest none is bound that comes after one that is missing
	}
	for p := range o.Partitions {
		if err := channel.QueueUnbind(PartitionQueue(p), weight, directExchange, nil); err != nil {
			return fmt.Errorf("unbinding the queue %s: %w", PartitionQueue(p), err)
		}
	}
	return bindQueues(conn, o)
}

// declareDirect declares the direct exchange, and what it has no queue for leads
// to the shared queue, which has to be there. Where the broker lacks the plugin
// for it, or forbids it, callers have the other way, and it returns false.
func declareDirect(ctx context.Context, conn *amqp.Connection, o Options) (bool, error) {
	err := tryDirect(ctx, conn, o)
	var refusal *amqp.Error
	if !errors.As(err, &refusal) {
		return err == nil, err
	}
	var why string
	switch refusal.Code {
	case amqp.CommandInvalid:
		why = "the broker lacks a plugin: run rabbitmq-plugins enable rabbitmq_consistent_hash_exchange on each of its nodes"
	case amqp.AccessRefused:
		why = "the broker's user may not configure, write and read ^glotpod"
	default:
		return false, err
	}
	o.Log.Warn("requests come by "+requestExchange+" alone, and not by "+directExchange, zap.String("why", why), zap.Error(err))
	return false, nil
}

// tryDirect declares the direct exchange. If it is there already, but leads to
// nowhere else, since somebody declared it without arguments, it does as well.
func tryDirect(ctx context.Context, conn *amqp.Connection, o Options) error {
	channel, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	defer channel.Close()
	if err := channel.ExchangeDeclare(unroutedExchange, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		return fmt.Errorf("declaring the exchange %s: %w", unroutedExchange, err)
	}
	if err := channel.QueueBind(RequestQueue, "", unroutedExchange, false, nil); err != nil {
		return fmt.Errorf("binding the queue %s: %w", RequestQueue, err)
	}

	err = channel.ExchangeDeclarePassive(directExchange, hashExchange, true, false, false, false, nil)
	if isCode(err, amqp.NotFound) {
		return declareOverOther(ctx, o.Broker)
	} else if err != nil {
		return fmt.Errorf("looking for the exchange %s: %w", directExchange, err)
	}
	if err = declareHash(channel); !isCode(err, amqp.PreconditionFailed) {
		return err
	}
	o.Log.Warn("the exchange "+directExchange+" was declared by somebody else; what it has no queue for is lost", zap.Error(err))
	return nil
}

func isCode(err error, code int) bool {
	var e *amqp.Error
	return errors.As(err, &e) && e.Code == code
}

// declareOverOther declares the direct exchange over a connection of its own,
// since a broker without the plugin closes the connection.
func declareOverOther(ctx context.Context, o broker.Options) error {
	o.ConnectionName += " (declaring)"
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := broker.Dial(ctx, o)
	if err != nil {
		return err
	}
	defer conn.CloseDeadline(time.Now().Add(time.Second))
	channel, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	return declareHash(channel)
}

func declareHash(channel *amqp.Channel) error {
	err := channel.ExchangeDeclare(directExchange, hashExchange, true, false, false, false,
		amqp.Table{"alternate-exchange": unroutedExchange})
	if err != nil {
		return fmt.Errorf("declaring the exchange %s: %w", directExchange, err)
	}
	return nil
}
