package topology

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/cluster/broker"
)

// A Channel is what this package uses of an [amqp.Channel].
type Channel interface {
	QueueDeclare(name string, durable, autoDelete, exclusive, noWait bool, args amqp.Table) (amqp.Queue, error)
	QueueDeclarePassive(name string, durable, autoDelete, exclusive, noWait bool, args amqp.Table) (amqp.Queue, error)
	QueueBind(name, key, exchange string, noWait bool, args amqp.Table) error
	QueueUnbind(name, key, exchange string, args amqp.Table) error
	ExchangeDeclare(name, kind string, durable, autoDelete, internal, noWait bool, args amqp.Table) error
	ExchangeDeclarePassive(name, kind string, durable, autoDelete, internal, noWait bool, args amqp.Table) error
	PublishWithContext(ctx context.Context, exchange, key string, mandatory, immediate bool, msg amqp.Publishing) error
	NotifyReturn(chan amqp.Return) chan amqp.Return
	Close() error
}

// Options say what to declare, and over which connection.
type Options struct {
	// Open opens a channel of the instance's connection.
	Open func() (Channel, error)

	// OpenPublishing opens a channel of the connection over which requests are forwarded.
	OpenPublishing func() (Channel, error)

	// OpenApart opens a channel of a connection of its own, and returns a function
	// that closes that connection.
	OpenApart func(context.Context) (_ Channel, closeConnection func(), _ error)

	First      int // the number of the generation's first partition
	Partitions int
	QueueType  string // of the partition queues: Quorum or Classic
	Log        *zap.Logger
}

// connectTimeout is how long connecting may take when a connection of its own is
// needed.
const connectTimeout = 8 * time.Second

// Over returns the functions that open channels of conn, and of further connections to
// the same broker.
func Over(conn *amqp.Connection, o broker.Options) (open func() (Channel, error), openApart func(context.Context) (Channel, func(), error)) {
	open = func() (Channel, error) { return openChannel(conn) }
	openApart = func(ctx context.Context) (Channel, func(), error) {
		o := o
		o.ConnectionName += " (declaring)"
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		conn, err := broker.Dial(ctx, o)
		if err != nil {
			return nil, nil, err
		}
		closeConnection := func() { conn.CloseDeadline(time.Now().Add(time.Second)) }
		channel, err := openChannel(conn)
		if err != nil {
			closeConnection()
			return nil, nil, err
		}
		return channel, closeConnection, nil
	}
	return open, openApart
}

func openChannel(conn *amqp.Connection) (Channel, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("opening a channel: %w", err)
	}
	return channel, nil
}

// A Topology declares the exchanges and queues of a cluster.
type Topology struct {
	o Options

	// sharedKindChecked is set after the kind of the shared queue was checked: each
	// check of another kind than expected leaves an error in the broker's log.
	sharedKindChecked atomic.Bool

	mu       sync.Mutex // guards the following fields
	down     []string   // the queues whose node was down when all was declared last
	declared time.Time  // when that was
}

// New returns a Topology. It declares nothing yet.
func New(o Options) *Topology { return &Topology{o: o} }

// Declare declares the shared queue, the partition queues, and the exchanges that lead
// to them. What exists already stays as it is. Queues whose node is down are left out,
// and logged. Declare returns a [SetupError] if the broker forbids it, or has something
// else under one of the names.
func (t *Topology) Declare(ctx context.Context) error {
	sharedDown, err := t.declareShared()
	if err == nil && !sharedDown {
		err = t.checkSharedKind()
	}
	if err != nil {
		return err
	}
	down, err := t.declareQueues()
	if err != nil {
		return asSetupError(err)
	}
	t.noteDown(sharedDown, down)
	direct, err := t.declareDirect(ctx, sharedDown)
	if err != nil || direct == absent {
		return err
	}
	return asSetupError(t.bindQueues(down))
}

// look declares what belongs to all instances: the shared queue and the exchanges. It
// returns whether the direct exchange existed before.
func (t *Topology) look(ctx context.Context) (exists bool, err error) {
	sharedDown, err := t.declareShared()
	if err != nil {
		return false, err
	}
	direct, err := t.declareDirect(ctx, sharedDown)
	if err == nil && direct == created {
		err = t.Declare(ctx) // which binds the partition queues
	}
	return err == nil && direct == present, err
}

// noteDown notes and logs which queues were left out, because their node is down.
func (t *Topology) noteDown(shared bool, partitions []int) {
	var down []string
	if shared {
		down = append(down, RequestQueue)
	}
	for _, p := range partitions {
		down = append(down, t.queueOf(p))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.down, t.declared = down, time.Now()
	if len(down) > 0 {
		t.o.Log.Warn("queues left out: their node is down", zap.Strings("queues", down))
	}
}

// isKnownDown reports whether the node of a queue was down a short time ago, so that
// declaring the queue is of no use yet.
func (t *Topology) isKnownDown(queue string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(t.down, queue) && time.Since(t.declared) < lookEvery
}

// isDown reports whether err says that the node of a queue that is being declared is down.
// The broker does not find such a queue, and refuses to declare it elsewhere.
func isDown(err error) bool { return broker.IsCode(err, amqp.NotFound) }

// declaringChannels is how many channels declare queues at the same time. The broker
// takes some milliseconds for each new queue.
const declaringChannels = 4

// declareQueues declares the partition queues. It returns the partitions with queues whose
// node is down.
func (t *Topology) declareQueues() (down []int, err error) {
	var group errgroup.Group
	var mu sync.Mutex // guards down
	for first := range min(declaringChannels, t.o.Partitions) {
		group.Go(func() error {
			for p := first; p < t.o.Partitions; p += declaringChannels {
				at, err := t.declareEach(p)
				if !isDown(err) {
					return err
				}
				mu.Lock()
				down = append(down, at)
				mu.Unlock()
				p = at
			}
			return nil
		})
	}
	err = group.Wait()
	slices.Sort(down)
	return down, err
}

// declareEach declares every declaringChannels-th partition queue from the first one on.
// If that fails, it returns where.
func (t *Topology) declareEach(first int) (at int, err error) {
	channel, err := t.o.Open()
	if err != nil {
		return first, err
	}
	defer channel.Close()
	for p := first; p < t.o.Partitions; p += declaringChannels {
		if err := t.declareQueue(channel, p); err != nil {
			return p, err
		}
	}
	return 0, nil
}

// declareQueue declares a partition queue.
func (t *Topology) declareQueue(channel Channel, partition int) error {
	queue := t.queueOf(partition)
	_, err := channel.QueueDeclare(queue, true, false, false, false, PartitionArguments(t.o.QueueType))
	if err == nil {
		return nil
	}
	err = fmt.Errorf("declaring the queue %s: %w", queue, err)
	if !broker.IsCode(err, amqp.PreconditionFailed) {
		return err
	}
	exists, findErr := t.findQueue(queue)
	switch {
	case findErr != nil:
		return findErr
	case exists:
		return &SetupError{fmt.Sprintf("%s is not the queue that cluster.queue_type = %q makes: stop all instances, move its messages, and delete it", queue, t.o.QueueType), err}
	}
	return QueueLimitError(t.o.Partitions, err)
}

// findQueue reports whether a queue exists, over a channel of its own.
func (t *Topology) findQueue(queue string) (exists bool, err error) {
	channel, err := t.o.Open()
	if err != nil {
		return false, err
	}
	defer channel.Close()
	_, err = channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	if broker.IsCode(err, amqp.NotFound) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("looking for the queue %s: %w", queue, err)
	}
	return true, nil
}

// queueOf returns the name of a partition's queue.
func (t *Topology) queueOf(partition int) string { return PartitionQueue(t.o.First + partition) }

// weight is the number of hash buckets that each partition queue has in the exchange,
// given as the routing key of its binding.
const weight = "1"

// bindQueues binds the partition queues in order, except those that are down. Queues that
// are bound already keep their places. So several instances may do this at the same time:
// an instance that binds a queue has bound all queues before it.
func (t *Topology) bindQueues(down []int) error {
	channel, err := t.o.Open()
	if err != nil {
		return err
	}
	defer channel.Close()
	for p := range t.o.Partitions {
		if slices.Contains(down, p) {
			continue
		}
		if err := channel.QueueBind(t.queueOf(p), weight, DirectExchange, true, nil); err != nil {
			return fmt.Errorf("binding the queue %s: %w", t.queueOf(p), err)
		}
	}
	return awaitChannel(channel)
}

// awaitChannel waits until the broker has carried out what was sent without waiting for
// replies: it answers a later method after that.
func awaitChannel(channel Channel) error {
	if err := channel.ExchangeDeclarePassive(DirectExchange, hashExchange, true, false, false, false, nil); err != nil {
		return fmt.Errorf("looking for the exchange %s: %w", DirectExchange, err)
	}
	return nil
}

// errQueueDown is returned instead of rebinding when the broker can neither unbind nor
// bind one of the queues.
var errQueueDown = errors.New("the node of a partition queue is down")

// rebindQueues unbinds all partition queues and binds them again in order. Until it is
// done, direct requests reach other partition queues than their own, or the shared
// queue, and are forwarded from there.
func (t *Topology) rebindQueues() error {
	// A missing queue would end bindQueues before the queues that follow it are bound.
	down, err := t.declareQueues()
	if err != nil {
		return err
	}
	if len(down) > 0 {
		return fmt.Errorf("%w: %v", errQueueDown, down)
	}
	channel, err := t.o.Open()
	if err != nil {
		return err
	}
	defer channel.Close()
	for p := range t.o.Partitions {
		if err := channel.QueueUnbind(t.queueOf(p), weight, DirectExchange, nil); err != nil {
			return fmt.Errorf("unbinding the queue %s: %w", t.queueOf(p), err)
		}
	}
	return t.bindQueues(nil)
}
