package clusterview

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/membership"
)

// Survey asks all instances for their status, and then the broker for the length of
// each queue. instanceTimeout and brokerTimeout bound the two steps. An instance that
// does not reply is no error: it is in Missing.
func Survey(ctx context.Context, conn *amqp.Connection, instanceTimeout, brokerTimeout time.Duration) (*Overview, error) {
	o, err := surveyInstances(ctx, conn, instanceTimeout)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	// The library ignores ctx while it waits for the broker; closing the connection
	// unblocks it.
	defer context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })()
	if err := o.countMessages(conn); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("ask the broker for the lengths of the queues: %w", err)
	}
	return o, nil
}

func surveyInstances(ctx context.Context, conn *amqp.Connection, timeout time.Duration) (*Overview, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	reports, err := membership.AskStatus(ctx, conn)
	missing, someMissing := errors.AsType[*membership.MissingError](err)
	if err != nil && !someMissing {
		return nil, err
	}
	o := newOverview(reports)
	if someMissing {
		o.Missing = missing.Names
	}
	return o, nil
}

// countMessages asks the broker how many messages are ready in each queue.
func (o *Overview) countMessages(conn *amqp.Connection) error {
	c := messageCounter{conn: conn}
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

// A messageCounter asks over one channel as long as the broker does not close it. The
// broker closes it if a queue does not exist.
type messageCounter struct {
	conn    *amqp.Connection
	channel *amqp.Channel // nil: must be opened
}

func (c *messageCounter) count(q *queueLength) (err error) {
	if c.channel == nil {
		if c.channel, err = c.conn.Channel(); err != nil {
			return err
		}
	}
	found, err := c.channel.QueueDeclarePassive(q.Name, true, false, false, false, nil)
	if broker.IsCode(err, amqp.NotFound) {
		c.channel = nil
		return nil
	}
	if err != nil {
		return err
	}
	q.MessagesReady = &found.Messages
	return nil
}

func (c *messageCounter) close() {
	if c.channel != nil {
		c.channel.Close() // the error says that it is closed already
	}
}
