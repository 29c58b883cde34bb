package broker

import (
	"context"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// probeDialTimeout and probeTimeout bound the two parts of a probe. A node that is
	// running responds in a fraction of that.
	probeDialTimeout = 5 * time.Second
	probeTimeout     = time.Second
)

var errBlocked = errors.New("RabbitMQ blocks publishers at the moment")

// probeNode publishes an empty message to name over a connection of its own. It reports
// whether that connection stays open and was not delayed.
func probeNode(ctx context.Context, o Options, name string) (safe bool, err error) {
	dialCtx, cancel := context.WithTimeout(ctx, probeDialTimeout)
	defer cancel()
	conn, err := Dial(dialCtx, o)
	if err != nil {
		return false, err
	}
	defer conn.CloseDeadline(time.Now().Add(probeTimeout))
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 1))

	tryCtx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	defer context.AfterFunc(tryCtx, func() { conn.CloseDeadline(time.Now()) })()
	err = publishAndWait(conn, name)
	if errors.Is(err, amqp.ErrClosed) { // the reason comes from NotifyClose
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

// publishAndWait publishes an empty message to name, and returns when the broker has
// handled it.
func publishAndWait(conn *amqp.Connection, name string) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Publish("", name, false, false, amqp.Publishing{}); err != nil {
		return err
	}
	return ch.Qos(1, 0, false) // its reply comes after the message is handled
}
