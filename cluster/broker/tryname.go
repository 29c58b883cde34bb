package broker

import (
	"context"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// tryDialTimeout and tryTimeout bound the two parts of one try. A node that
	// is there lets nobody wait for a fraction of that.
	tryDialTimeout = 5 * time.Second
	tryTimeout     = time.Second
)

var errBlocked = errors.New("RabbitMQ takes no messages at the moment")

// tryName publishes an empty message to name, on a connection of its own, and
// reports whether that connection lives on and was not held up.
func tryName(ctx context.Context, o Options, name string) (safe bool, err error) {
	dialCtx, cancel := context.WithTimeout(ctx, tryDialTimeout)
	defer cancel()
	conn, err := Dial(dialCtx, o)
	if err != nil {
		return false, err
	}
	defer conn.CloseDeadline(time.Now().Add(tryTimeout))
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 1))

	tryCtx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	defer context.AfterFunc(tryCtx, func() { conn.CloseDeadline(time.Now()) })()
	err = publishAndWait(conn, name)
	if errors.Is(err, amqp.ErrClosed) { // before it could say why
		if e := <-closed; e != nil {
			err = e
		}
	}

	switch e, ok := errors.AsType[*amqp.Error](err); {
	case err == nil:
		return true, nil
	case ok && e.Server && e.Code == amqp.InternalError:
		return false, nil
	case ctx.Err() != nil:
		return false, ctx.Err()
	case tryCtx.Err() == nil:
		return false, err
	case (<-blocked).Active:
		return false, errBlocked
	default:
		return false, nil
	}
}

// publishAndWait returns when the broker has dealt with an empty message to name.
func publishAndWait(conn *amqp.Connection, name string) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Publish("", name, false, false, amqp.Publishing{}); err != nil {
		return err
	}
	return ch.Qos(1, 0, false) // for its answer, which comes after
}
