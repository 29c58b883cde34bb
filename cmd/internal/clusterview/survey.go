package clusterview

import (
	"context"

	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/membership"
)

// Survey asks the instances, and then the broker. An instance that does not
// answer is no error.
func Survey(ctx context.Context, conn *amqp.Connection, forInstances, forBroker time.Duration) (*Overview, error) {
	asking, cancel := context.WithTimeout(ctx, forInstances)
	defer cancel()
	reports, err := membership.AskStatus(asking, conn)
	missing, someAreMissing := errors.AsType[*membership.MissingError](err)
	if err != nil && !someAreMissing {
		return nil, err
	}
	o := newOverview(reports)
	if someAreMissing {
		o.Missing = missing.Names
	}

	asking, cancel = context.WithTimeout(ctx, forBroker)
	defer cancel()
	// The library waits for the broker whatever ctx says.
	defer context.AfterFunc(asking, func() { conn.CloseDeadline(time.Now()) })()
	if err := o.countMessages(conn); err != nil {
		if asking.Err() != nil {
			err = asking.Err()
		}
		return nil, fmt.Errorf("asking the broker how many messages wait: %w", err)
	}
	return o, nil
}

// countMessages asks the broker how many messages wait in each queue.
func (o *Overview) countMessages(conn *amqp.Connection) error {
	c := counter{conn: conn}
	defer c.close()
	if err := c.count(&o.SharedQueue); err != nil {
		return err
	}
	for i := range o.Partitions {
		if err := c.count(&o.Partitions[i].Queue); err != nil {
			return err
		}
	}
	return nil
}

// A counter asks over a channel, and opens another when the broker has closed
// it, which it does when there is no such queue.
type counter struct {
	conn    *amqp.Connection
	channel *amqp.Channel // nil: to be opened
}

func (c *counter) count(q *queueDepth) (err error) {
	if c.channel == nil {
		if c.channel, err = c.conn.Channel(); err != nil {
			return err
		}
	}
	found, err := c.channel.QueueDeclarePassive(q.Name, true, false, false, false, nil)
	if refusal, ok := errors.AsType[*amqp.Error](err); ok && refusal.Code == amqp.NotFound {
		c.channel = nil
		return nil
	}
	if err != nil {
		return err
	}
	q.MessagesReady = &found.Messages
	return nil
}

func (c *counter) close() {
	if c.channel != nil {
		c.channel.Close() // an error is its end
	}
}
