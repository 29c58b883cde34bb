package membership

import (
	"context"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/wait"
)

// StopPredecessors stops earlier incarnations of self's name that may still run. It sends
// each of them a message of self, which stops that incarnation's Core. It repeats that
// after each interval of the duration every, until the broker has reported that all their
// queues are gone. It then returns nil. It returns an error if ctx ends or the connection is lost before.
//
// self need not have joined. StopPredecessors opens a channel of its own.
func StopPredecessors(ctx context.Context, conn *amqp.Connection, self ownership.Member, predecessors []ownership.Member, every time.Duration) error {
	if len(predecessors) == 0 {
		return nil
	}
	s := predecessorStopper{running: make(map[string]ownership.Member)}
	for _, member := range predecessors {
		s.running[QueueOf(member)] = member
	}
	s.body = encodeMessage(ownership.Message{From: self, State: ownership.Joining})
	return s.run(ctx, conn, every)
}

// A predecessorStopper is a channel for the messages that stop earlier incarnations.
type predecessorStopper struct {
	channel   *amqp.Channel
	returned  chan amqp.Return
	confirmed chan amqp.Confirmation
	running   map[string]ownership.Member // their queues may still exist; by queue
	body      []byte
}

func (s *predecessorStopper) run(ctx context.Context, conn *amqp.Connection, every time.Duration) error {
	if err := within(ctx, conn, func() error { return s.open(conn) }); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), channelCloseTimeout)
		defer cancel()
		within(ctx, conn, s.channel.Close) // on an error, the channel is closed as well
	}()
	for {
		if err := within(ctx, conn, s.notifyAll); err != nil {
			return err
		}
		if len(s.running) == 0 {
			return nil
		}
		if err := wait.For(ctx, every); err != nil {
			return err
		}
	}
}

func (s *predecessorStopper) open(conn *amqp.Connection) (err error) {
	if s.channel, err = conn.Channel(); err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	if err := s.channel.Confirm(false); err != nil {
		return fmt.Errorf("asking for confirmations: %w", err)
	}
	// There is never more than one unconfirmed message, so the buffers suffice.
	s.returned = s.channel.NotifyReturn(make(chan amqp.Return, 1))
	s.confirmed = s.channel.NotifyPublish(make(chan amqp.Confirmation, 1))
	return nil
}

// notifyAll sends a message to each predecessor that may be running, one after another.
// It removes a predecessor if its queue is gone.
func (s *predecessorStopper) notifyAll() error {
	for queue := range s.running {
		err := s.channel.Publish("", queue, true, false, amqp.Publishing{
			Type:        typeHeartbeat,
			ContentType: "application/json",
			Body:        s.body,
		})
		if err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		if _, ok := <-s.confirmed; !ok {
			return fmt.Errorf("waiting for the confirmation: %w", amqp.ErrClosed)
		}
		select {
		case r, ok := <-s.returned: // a return comes before the confirmation
			if ok && r.ReplyCode == amqp.NoRoute {
				delete(s.running, queue)
			}
		default:
		}
	}
	return nil
}
