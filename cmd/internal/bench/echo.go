package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/deploy/localserver"
)

const (
	// echoPrefetch is the default of amqp.prefetch.
	echoPrefetch = 256

	// echoExpiry is when the broker deletes the queues of an echo that
	// could not do so itself.
	echoExpiry = time.Minute
)

// echoKey is the routing key, at amq.topic, of an echo's classic queue.
func echoKey(run string) string { return "glotpod.bench." + run }

// echoExchange is the exchange of the kind of the direct one.
func echoExchange(run string) string { return "glotpod.bench/" + run }

// spreadEchoExchange is likewise.
func spreadEchoExchange(run string) string { return echoExchange(run) + "/spread" }

// echoRoute leads to the echo's classic queue.
func echoRoute(run string) route {
	key := echoKey(run)
	return func(request, *amqp.Publishing) (string, string) { return "amq.topic", key }
}

// directEchoRoute leads to the echo's queue that is like a partition's.
func directEchoRoute(run string) route { return hashedRoute(echoExchange(run)) }

// spreadEchoRoute leads to one of the echo's queues that are like the partitions'.
func spreadEchoRoute(run string) route { return hashedRoute(spreadEchoExchange(run)) }

func hashedRoute(exchange string) route {
	return func(r request, m *amqp.Publishing) (string, string) {
		m.Type = r.operation
		return exchange, r.user
	}
}

// echoCommand is the name of the command that a run starts the echo with.
const echoCommand = "echo"

const echoAbout = `Answers requests with a user that is always the same: what the service is compared
with. Each run starts an echo by itself. It ends on SIGTERM.`

// runEcho plays the echo, in a process of its own as an instance is.
func runEcho(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("", echoAbout)
	run := flags.String("run", "", "the `name` of the run, which is in the queues' names")
	direct := flags.Bool("direct", false, "answer on a queue like a partition's as well, and on as many as there are partitions")
	queueType := flags.String("queue-type", config.QueueQuorum, "the `type` of that queue")
	partitions := flags.Int("partitions", 0, "how `many` partitions there are")
	if status, done := flags.Parse(args, 0); done {
		return status
	}
	c, err := config.LoadClient(env.Environ)
	if err != nil {
		return env.Fail(err)
	}
	conn, err := connect.Dial(ctx, c, "bench echo", env.Version)
	if err != nil {
		return env.Fail(err)
	}
	defer connect.Close(conn)
	e := &echo{conn: conn}
	if err := e.open(*run, *direct, *queueType, *partitions); err != nil {
		return env.Fail(err)
	}
	fmt.Fprintln(env.Stdout, "ready")
	if err := e.serve(ctx); err != nil {
		return env.Fail(err)
	}
	return cli.StatusOK
}

// An echo answers all requests alike. It is as little as a consumer can be.
type echo struct {
	conn   *amqp.Connection
	queues []echoQueue
}

type echoQueue struct {
	name     string
	channel  *amqp.Channel
	requests <-chan amqp.Delivery
}

func (e *echo) open(run string, direct bool, queueType string, partitions int) error {
	arguments := amqp.Table{"x-expires": echoExpiry.Milliseconds()}
	err := e.consume("glotpod.bench/"+run+"/echo", arguments, func(c *amqp.Channel, queue string) error {
		return c.QueueBind(queue, echoKey(run), "amq.topic", false, nil)
	})
	if err != nil || !direct {
		return err
	}
	if queueType == config.QueueQuorum {
		arguments["x-queue-type"] = config.QueueQuorum
		arguments["x-single-active-consumer"] = true
	}
	if err := e.consumeHashed("glotpod.bench/"+run+"/direct", arguments, echoExchange(run)); err != nil {
		return err
	}
	for n := range partitions {
		queue := fmt.Sprintf("glotpod.bench/%s/spread/%04d", run, n)
		if err := e.consumeHashed(queue, arguments, spreadEchoExchange(run)); err != nil {
			return err
		}
	}
	return nil
}

// consumeHashed consumes a queue that is bound to an exchange of the direct one's
// kind.
func (e *echo) consumeHashed(queue string, arguments amqp.Table, exchange string) error {
	return e.consume(queue, arguments, func(c *amqp.Channel, queue string) error {
		if err := c.ExchangeDeclare(exchange, "x-consistent-hash", true, true, false, false, nil); err != nil {
			return err
		}
		return c.QueueBind(queue, "1", exchange, false, nil)
	})
}

// consume declares a queue, binds it and takes requests from it.
func (e *echo) consume(queue string, arguments amqp.Table, bind func(c *amqp.Channel, queue string) error) error {
	channel, err := e.conn.Channel()
	if err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	if _, err := channel.QueueDeclare(queue, true, false, false, false, arguments); err != nil {
		return fmt.Errorf("declaring the queue %s: %w", queue, err)
	}
	if err := bind(channel, queue); err != nil {
		return fmt.Errorf("binding the queue %s: %w", queue, err)
	}
	if err := channel.Qos(echoPrefetch, 0, false); err != nil {
		return fmt.Errorf("setting the prefetch: %w", err)
	}
	requests, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consuming %s: %w", queue, err)
	}
	e.queues = append(e.queues, echoQueue{queue, channel, requests})
	return nil
}

// serve answers until ctx is done, and then deletes the queues.
func (e *echo) serve(ctx context.Context) error {
	answer := msgp.AppendString(msgp.AppendMapHeader(nil, 1), "result")
	answer = appendUser(answer, 1234567, "bench-abcdefghij-1234567@bench.invalid", 1<<61)
	var group errgroup.Group
	for _, q := range e.queues {
		group.Go(func() error { return q.answer(answer) })
	}
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("answering: %w", err)
	case <-ctx.Done():
	}
	for _, q := range e.queues {
		q.channel.QueueDelete(q.name, false, false, false) // if that fails, they expire
	}
	connect.Close(e.conn)
	<-ended
	return nil
}

// answer answers until the channel ends.
func (q echoQueue) answer(answer []byte) error {
	for d := range q.requests {
		err := q.channel.Publish("", d.ReplyTo, false, false, amqp.Publishing{
			CorrelationId: d.CorrelationId,
			ContentType:   "application/msgpack",
			Body:          answer,
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

// An echoProcess is an echo that this program has started.
type echoProcess struct {
	process *localserver.Process
	pid     int
}

// startEcho returns when the echo answers. environ are the settings by which it
// finds the broker.
func startEcho(ctx context.Context, environ []string, run string, direct bool, cluster config.Cluster, stderr io.Writer) (*echoProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, echoCommand, "--run", run, "--queue-type", cluster.QueueType, "--partitions", strconv.Itoa(cluster.Partitions))
	if direct {
		cmd.Args = append(cmd.Args, "--direct")
	}
	cmd.Env = environ
	ready := &firstWrite{happened: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = ready, stderr
	p, err := localserver.Launch(cmd, syscall.SIGTERM)
	if err != nil {
		return nil, fmt.Errorf("starting the echo: %w", err)
	}
	e := &echoProcess{process: p, pid: cmd.Process.Pid}
	select {
	case <-ready.happened:
		return e, nil
	case <-p.Exited():
		return nil, fmt.Errorf("the echo has ended (%v)", p.Status())
	case <-ctx.Done():
		e.stop()
		return nil, ctx.Err()
	}
}

func (e *echoProcess) stop() error { return e.process.Stop(syscall.SIGTERM, 10*time.Second) }

// A firstWrite tells when it is written to.
type firstWrite struct {
	happened chan struct{}
	once     sync.Once
}

func (f *firstWrite) Write(p []byte) (int, error) {
	f.once.Do(func() { close(f.happened) })
	return len(p), nil
}
