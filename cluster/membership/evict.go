package membership

import (
	"context"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/ownership"
)

// StopPredecessors ends those in before, earlier incarnations of self's name that may still
// run: it tells each of self, whereupon its Core stops, and does so again every
// while until the broker has said that the queues of all are gone. It returns
// nil then, and otherwise an error when ctx ends or the connection is lost.
//
// self need not have joined. StopPredecessors uses a channel of its own.
func StopPredecessors(ctx context.Context, conn *amqp.Connection, self ownership.Member, before []ownership.Member, every time.Duration) error {
	if len(before) == 0 {
		return nil
	}
	e := evicter{there: make(map[string]ownership.Member)}
	for _, who := range before {
		e.there[QueueOf(who)] = who
	}
	e.body = encodeMessage(ownership.Message{From: self, State: ownership.Joining})
	return e.run(ctx, conn, every)
}

// An evicter is a channel by which earlier incarnations are told to end.
type evicter struct {
	channel   *amqp.Channel
	returned  chan amqp.Return
	confirmed chan amqp.Confirmation
	there     map[string]ownership.Member // who is not known to be gone, by queue
	body      []byte
}

func (e *evicter) run(ctx context.Context, conn *amqp.Connection, every time.Duration) error {
	if err := within(ctx, conn, func() error { return e.open(conn) }); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
		defer cancel()
		within(ctx, conn, e.channel.Close) // an error is the channel's end
	}()
	for {
		if err := within(ctx, conn, e.tell); err != nil {
			return err
		}
		if len(e.there) == 0 {
			return nil
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *evicter) open(conn *amqp.Connection) (err error) {
	if e.channel, err = conn.Channel(); err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	if err := e.channel.Confirm(false); err != nil {
		return fmt.Errorf("asking for confirmations: %w", err)
	}
	// There is never more than one message on its way.
	e.returned = e.channel.NotifyReturn(make(chan amqp.Return, 1))
	e.confirmed = e.channel.NotifyPublish(make(chan amqp.Confirmation, 1))
	return nil
}

// tell sends a message to each that is there, one after another, and notes who
// is not.
func (e *evicter) tell() error {
	for queue := range e.there {
		err := e.channel.Publish("", queue, true, false, amqp.Publishing{
			Type:        typeHeartbeat,
			ContentType: "application/json",
			Body:        e.body,
		})
		if err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		if _, ok := <-e.confirmed; !ok {
			return fmt.Errorf("waiting for the broker's word: %w", amqp.ErrClosed)
		}
		select {
		case r, ok := <-e.returned: // it came before the confirmation
			if ok && r.ReplyCode == amqp.NoRoute {
				delete(e.there, queue)
			}
		default:
		}
	}
	return nil
}
