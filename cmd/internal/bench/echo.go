package bench

import (
	"context"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/spf13/cobra"
	"github.com/tinylib/msgp/msgp"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
)

const (
	// echoPrefetch is the default of amqp.prefetch.
	echoPrefetch = 256

	// echoExpiry is when the broker deletes the unused queues of an echo that was
	// killed.
	echoExpiry = time.Minute
)

// echoKey is the routing key of the classic queue at amq.topic.
func echoKey(run string) string { return "glotpod.bench." + run }

// echoExchange is the exchange of the queue that is like a partition queue.
func echoExchange(run string) string { return "glotpod.bench/" + run }

// spreadEchoExchange is the exchange of the queues that are like all partition queues.
func spreadEchoExchange(run string) string { return echoExchange(run) + "/spread" }

// echoRoute leads to the classic queue.
func echoRoute(run string) route {
	key := echoKey(run)
	return func(request, *amqp.Publishing) (string, string) { return "amq.topic", key }
}

// directEchoRoute leads to the queue that is like a partition queue.
func directEchoRoute(run string) route { return hashedRoute(echoExchange(run)) }

// spreadEchoRoute leads to one of the queues that are like all partition queues.
func spreadEchoRoute(run string) route { return hashedRoute(spreadEchoExchange(run)) }

func hashedRoute(exchange string) route {
	return func(r request, m *amqp.Publishing) (string, string) {
		m.Type = r.operation
		return exchange, r.user
	}
}

// echoCommand is the name of the command that a run starts the echo with.
const echoCommand = "echo"

const echoAbout = `Replies to each request with the same user, as a baseline for the service. Each run
starts an echo by itself. The echo stops on SIGTERM.`

// echoOptions are the options of the command echo.
type echoOptions struct {
	run        string
	direct     bool
	queueType  string
	partitions int
}

// newEcho returns the command echo, which is a process of its own, as an instance is.
func newEcho(env *cli.Env) *cobra.Command {
	var o echoOptions
	c := &cobra.Command{
		Use:    echoCommand,
		Short:  "be the echo of a run",
		Long:   echoAbout,
		Hidden: true,
		RunE:   func(c *cobra.Command, _ []string) error { return runEcho(c.Context(), env, o) },
	}
	c.Flags().StringVar(&o.run, "run", "", "the `name` of the run, which is a part of the names of the queues")
	c.Flags().BoolVar(&o.direct, "direct", false, "also consume queues that are like the partition queues")
	c.Flags().StringVar(&o.queueType, "queue-type", config.QueueQuorum, "the `type` of these queues")
	c.Flags().IntVar(&o.partitions, "partitions", 0, "the `number` of partitions")
	return c
}

func runEcho(ctx context.Context, env *cli.Env, o echoOptions) error {
	c, err := config.LoadClient(env.Environ)
	if err != nil {
		return err
	}
	conn, err := connect.Dial(ctx, c, "bench echo", env.Version)
	if err != nil {
		return err
	}
	defer connect.Close(conn)
	e := &echo{conn: conn}
	if err := e.open(o); err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, "ready")
	return e.serve(ctx)
}

// An echo replies to all requests with the same user. It is a minimal consumer.
type echo struct {
	conn   *amqp.Connection
	queues []echoQueue
}

type echoQueue struct {
	name     string
	channel  *amqp.Channel
	requests <-chan amqp.Delivery
}

func (e *echo) open(o echoOptions) error {
	arguments := amqp.Table{"x-expires": echoExpiry.Milliseconds()}
	err := e.consume("glotpod.bench/"+o.run+"/echo", arguments, func(c *amqp.Channel, queue string) error {
		return c.QueueBind(queue, echoKey(o.run), "amq.topic", false, nil)
	})
	if err != nil || !o.direct {
		return err
	}
	if o.queueType == config.QueueQuorum {
		arguments["x-queue-type"] = config.QueueQuorum
		arguments["x-single-active-consumer"] = true
	}
	if err := e.consumeHashed("glotpod.bench/"+o.run+"/direct", arguments, echoExchange(o.run)); err != nil {
		return err
	}
	for n := range o.partitions {
		queue := fmt.Sprintf("glotpod.bench/%s/spread/%04d", o.run, n)
		if err := e.consumeHashed(queue, arguments, spreadEchoExchange(o.run)); err != nil {
			return err
		}
	}
	return nil
}

// consumeHashed consumes a queue that is bound to a consistent-hash exchange.
func (e *echo) consumeHashed(queue string, arguments amqp.Table, exchange string) error {
	return e.consume(queue, arguments, func(c *amqp.Channel, queue string) error {
		if err := c.ExchangeDeclare(exchange, "x-consistent-hash", true, true, false, false, nil); err != nil {
			return err
		}
		return c.QueueBind(queue, "1", exchange, false, nil)
	})
}

// consume declares a queue, binds it and consumes it.
func (e *echo) consume(queue string, arguments amqp.Table, bind func(c *amqp.Channel, queue string) error) error {
	channel, err := e.conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	if _, err := channel.QueueDeclare(queue, true, false, false, false, arguments); err != nil {
		return fmt.Errorf("declare the queue %s: %w", queue, err)
	}
	if err := bind(channel, queue); err != nil {
		return fmt.Errorf("bind the queue %s: %w", queue, err)
	}
	if err := channel.Qos(echoPrefetch, 0, false); err != nil {
		return fmt.Errorf("set the prefetch: %w", err)
	}
	requests, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consume %s: %w", queue, err)
	}
	e.queues = append(e.queues, echoQueue{queue, channel, requests})
	return nil
}

// serve replies to requests until ctx is done. Then it deletes the queues.
func (e *echo) serve(ctx context.Context) error {
	reply := msgp.AppendString(msgp.AppendMapHeader(nil, 1), "result")
	reply = appendUser(reply, 1234567, "bench-abcdefghij-1234567@bench.invalid", 1<<61)
	var group errgroup.Group
	for _, q := range e.queues {
		group.Go(func() error { return q.replyAll(reply) })
	}
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("reply: %w", err)
	case <-ctx.Done():
	}
	for _, q := range e.queues {
		q.channel.QueueDelete(q.name, false, false, false) // after an error the queue expires
	}
	connect.Close(e.conn)
	<-ended
	return nil
}

// replyAll replies to each request until the channel is closed.
func (q echoQueue) replyAll(reply []byte) error {
	for d := range q.requests {
		err := q.channel.Publish("", d.ReplyTo, false, false, amqp.Publishing{
			CorrelationId: d.CorrelationId,
			ContentType:   "application/msgpack",
			Body:          reply,
		})
		if err != nil {
			return err
		}
		if err := d.Ack(false); err != nil {
			return err
		}
	}
	return amqp.ErrClosed
}
