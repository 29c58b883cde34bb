package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/config"
)

const statusAbout = `Asks all instances over RabbitMQ how they are, and prints who there is, who has
which partition, and how many messages wait.

Each instance answers for itself, one after another. A partition that moves
meanwhile can appear twice, or not at all.

Ends with status 0 when each partition has one owner, 1 when one has none or
several or no instance is there, 3 when an instance has not answered in time,
129 when RabbitMQ is out of reach.`

func runStatus(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newFlags("status", stderr, "", statusAbout)
	asJSON := flags.Bool("json", false, "print one JSON document, for programs")
	timeout := flags.Duration("timeout", 5*time.Second, "how long to wait for the instances, and then for the broker")
	if status, done := flags.parse(args, 0); done {
		return status
	}
	conn, err := connectToAsk(ctx, "status", *timeout)
	if err != nil {
		return fail(stderr, err)
	}
	defer conn.CloseDeadline(time.Now().Add(time.Second))

	o, err := overlook(ctx, conn, *timeout, *timeout)
	if err != nil {
		return failAsking(stderr, "status", conn, err)
	}
	o.withoutTraffic()
	if *asJSON {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(o)
	} else {
		err = o.print(stdout, time.Now())
	}
	if err != nil {
		return fail(stderr, fmt.Errorf("printing the status: %w", err))
	}
	return o.status()
}

// connectToAsk connects as the settings say. purpose is what for.
func connectToAsk(ctx context.Context, purpose string, timeout time.Duration) (*amqp.Connection, error) {
	c, err := config.LoadClient(os.Environ())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := broker.Dial(ctx, brokerOptions(c, zap.NewNop(), purpose))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", cluster.ErrUnreachable, err)
	}
	return conn, nil
}

// failAsking reports why the instances could not be asked, and returns the
// status that belongs to it.
func failAsking(stderr io.Writer, command string, conn *amqp.Connection, err error) int {
	switch {
	case errors.Is(err, membership.ErrNoInstance):
		fmt.Fprintf(stderr, "glotpod-ident %s: %v\n", command, err)
		return exitFailure
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintf(stderr, "glotpod-ident %s: %v\n", command, err)
		return exitNoAnswer
	case conn.IsClosed():
		err = fmt.Errorf("%w: %w", cluster.ErrUnreachable, err)
	}
	return fail(stderr, err)
}

// overlook asks the instances, and then the broker. An instance that does not
// answer is no error.
func overlook(ctx context.Context, conn *amqp.Connection, forInstances, forBroker time.Duration) (*overview, error) {
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
func (o *overview) countMessages(conn *amqp.Connection) error {
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
