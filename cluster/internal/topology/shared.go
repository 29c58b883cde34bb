package topology

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
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
	case IsCode(err, amqp.NotFound):
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
	if IsCode(err, amqp.PreconditionFailed) {
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
	for _, kind := range []string{Classic, Quorum, stream} {
		is, err := t.isOfKind(RequestQueue, kind)
		switch {
		case isDown(err):
			return nil
		case err != nil:
			return asSetupError(err)
		case !is:
			continue
		case kind == Classic:
			t.sharedKindChecked.Store(true)
			return nil
		case kind == stream:
			return &SetupError{"each instance would get each request", fmt.Errorf("the queue %s is a stream", RequestQueue)}
		}
		t.warnSharedKind(kind)
		return nil
	}
	t.warnSharedKind("with arguments")
	return nil
}

func (t *Topology) warnSharedKind(kind string) {
	t.sharedKindChecked.Store(true)
	t.o.Log.Warn("the shared queue is not a classic queue without arguments; it is used as it is",
		zap.String("queue", RequestQueue), zap.String("kind", kind))
}

// isOfKind reports whether a queue is durable, of a type, and without other arguments. It
// uses a channel of its own.
func (t *Topology) isOfKind(queue, kind string) (bool, error) {
	channel, err := t.o.Open()
	if err != nil {
		return false, err
	}
	defer channel.Close()
	_, err = channel.QueueDeclare(queue, true, false, false, false, amqp.Table{typeArgument: kind})
	if IsCode(err, amqp.PreconditionFailed) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("declaring the queue %s: %w", queue, err)
	}
	return true, nil
}
