package topology

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/broker"
)

// declareShared declares the shared queue, as all versions of the service have declared
// it, unless it exists. It returns whether the queue's node is down. A queue that exists is
// used as it is: its kind may be another one if the virtual host has another default type
// of queues, or an operator has declared it.
func (t *Topology) declareShared() (down bool, err error) {
	channel, err := t.o.Open()
	if err != nil {
		return false, err
	}
	defer channel.Close()
	_, err = channel.QueueDeclarePassive(RequestQueue, true, false, false, false, nil)
	switch {
	case err == nil:
		return false, bindShared(channel)
	case broker.IsCode(err, amqp.NotFound):
		return t.createShared() // the channel is closed
	}
	return false, asSetupError(fmt.Errorf("looking for the queue %s: %w", RequestQueue, err))
}

// createShared declares and binds the shared queue after it was not found.
func (t *Topology) createShared() (down bool, err error) {
	channel, err := t.o.Open()
	if err != nil {
		return false, err
	}
	defer channel.Close()
	_, err = channel.QueueDeclare(RequestQueue, true, false, false, false, nil)
	switch {
	case err == nil:
		return false, bindShared(channel)
	case isDown(err):
		return true, nil
	}
	err = fmt.Errorf("declaring the queue %s: %w", RequestQueue, err)
	if broker.IsCode(err, amqp.PreconditionFailed) {
		return false, QueueLimitError(t.o.Partitions, err)
	}
	return false, asSetupError(err)
}

func bindShared(channel Channel) error {
	if err := channel.QueueBind(RequestQueue, requestKeys, RequestExchange, false, nil); err != nil {
		return asSetupError(fmt.Errorf("binding the queue %s: %w", RequestQueue, err))
	}
	return nil
}

// checkSharedKind warns once if the shared queue, which exists, is not of the kind that the
// service expects. It returns a SetupError if the queue is a stream, which gives each
// instance each request.
//
// The broker tells the kind of a queue only by accepting or refusing a declaration of that
// kind. If the queue was deleted just before, it is made again as a classic queue, which
// equals what declareShared makes in a virtual host without a default type.
func (t *Topology) checkSharedKind() error {
	if t.sharedKindChecked.Load() {
		return nil
	}
	kind, found, err := kindOf(t.o.Open, RequestQueue)
	switch {
	case err != nil:
		return asSetupError(err)
	case !found:
		return nil
	case kind == Classic:
		t.sharedKindChecked.Store(true)
	case kind == Stream:
		return &SetupError{"each instance would get each request", fmt.Errorf("the queue %s is a stream", RequestQueue)}
	case kind == "":
		t.warnSharedKind("with arguments")
	default:
		t.warnSharedKind(kind)
	}
	return nil
}

func (t *Topology) warnSharedKind(kind string) {
	t.sharedKindChecked.Store(true)
	t.o.Log.Warn("the shared queue is not a classic queue without arguments; it is used as it is",
		zap.String("queue", RequestQueue), zap.String("kind", kind))
}

// KindOf returns the type of a durable queue. It is "" if the queue was declared with other
// arguments than its type. found is false if there is no such queue, or its node is down.
func KindOf(open func() (Channel, error), queue string) (kind string, found bool, err error) {
	channel, err := open()
	if err != nil {
		return "", false, err
	}
	defer channel.Close()
	_, err = channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	switch {
	case isDown(err):
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("looking for the queue %s: %w", queue, err)
	}
	return kindOf(open, queue)
}

// kindOf is KindOf for a queue that exists. If the queue was deleted just before, it is made again
// as a classic queue.
func kindOf(open func() (Channel, error), queue string) (kind string, found bool, err error) {
	for _, kind := range []string{Classic, Quorum, Stream} {
		is, err := isOfKind(open, queue, kind)
		switch {
		case isDown(err):
			return "", false, nil
		case err != nil:
			return "", false, err
		case is:
			return kind, true, nil
		}
	}
	return "", true, nil
}

// isOfKind reports whether a queue is durable, of a type, and without other arguments. It
// uses a channel of its own.
func isOfKind(open func() (Channel, error), queue, kind string) (bool, error) {
	channel, err := open()
	if err != nil {
		return false, err
	}
	defer channel.Close()
	_, err = channel.QueueDeclare(queue, true, false, false, false, amqp.Table{typeArgument: kind})
	if broker.IsCode(err, amqp.PreconditionFailed) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("declaring the queue %s: %w", queue, err)
	}
	return true, nil
}
