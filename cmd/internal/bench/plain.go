package bench

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
)

const (
	// plainWorkers is the number of requests that the plain service handles at the same
	// time, each with a connection to the database. With 128 patches in flight on two cores,
	// 32 had the highest rate of 8, 16 and 32, though by less than the noise.
	plainWorkers = 32

	// plainPrefetch is the prefetch of all workers together.
	plainPrefetch = 128
)

// plainKey is the routing key at amq.topic of the queue that the workers share.
func plainKey(run string) string { return echoKey(run) + ".plain" }

// plainRoute leads to the queue that the workers share.
func plainRoute(run string) route {
	key := plainKey(run)
	return func(r request, m *amqp.Publishing) (string, string) {
		m.Type = r.operation
		return "amq.topic", key
	}
}

// plainCommand is the name of the command that a run starts the plain service with.
const plainCommand = "plain"

const plainAbout = `Serves get, patch and create as simply as possible, as a baseline for the service:
consumers compete for one queue, and each request is one transaction that locks the
user's row. There is no ownership, no cache, no request id and no outbox. Each run
starts a plain service by itself. It stops on SIGTERM.`

// newPlain returns the command plain, which is a process of its own, as an instance is.
func newPlain(env *cli.Env) *cobra.Command {
	var run string
	c := &cobra.Command{
		Use:    plainCommand,
		Short:  "be the plain service of a run",
		Long:   plainAbout,
		Hidden: true,
		RunE:   func(c *cobra.Command, _ []string) error { return servePlain(c.Context(), env, run) },
	}
	c.Flags().StringVar(&run, "run", "", "the `name` of the run, which is a part of the names of the queue and the tables")
	return c
}

func servePlain(ctx context.Context, env *cli.Env, run string) error {
	c, err := config.Load(env.Environ)
	if err != nil {
		return err
	}
	conn, err := connect.Dial(ctx, c, "bench plain", env.Version)
	if err != nil {
		return err
	}
	defer connect.Close(conn)
	s := &plainService{
		run: run, conn: conn, tables: plainTables(schemaOf(run)),
		limits: msgpack.Limits{Bytes: c.Limits.BodyBytes, Depth: c.Limits.Depth, Values: c.Limits.Values},
	}
	settings, err := poolConfig(c)
	if err != nil {
		return err
	}
	settings.MinConns, settings.MaxConns = plainWorkers, plainWorkers
	if s.database, err = pgxpool.NewWithConfig(ctx, settings); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer s.database.Close()
	if err := s.consume(); err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, "ready")
	return s.serve(ctx)
}

// A plainService is the service that one would write without ownership of users: workers
// that compete for requests, and a transaction per request. With few requests in flight, the
// pool gives them the connections that were used last.
type plainService struct {
	run      string
	conn     *amqp.Connection
	channel  *amqp.Channel
	requests <-chan amqp.Delivery
	database *pgxpool.Pool
	tables   plainTables
	limits   msgpack.Limits
}

func (s *plainService) queue() string { return "glotpod.bench/" + s.run + "/plain" }

// consume consumes a queue like the one that all instances share.
func (s *plainService) consume() (err error) {
	if s.channel, err = s.conn.Channel(); err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	arguments := amqp.Table{"x-expires": echoExpiry.Milliseconds()}
	if _, err := s.channel.QueueDeclare(s.queue(), true, false, false, false, arguments); err != nil {
		return fmt.Errorf("declare the queue %s: %w", s.queue(), err)
	}
	if err := s.channel.QueueBind(s.queue(), plainKey(s.run), "amq.topic", false, nil); err != nil {
		return fmt.Errorf("bind the queue %s: %w", s.queue(), err)
	}
	if err := s.channel.Qos(plainPrefetch, 0, false); err != nil {
		return fmt.Errorf("set the prefetch: %w", err)
	}
	if s.requests, err = s.channel.Consume(s.queue(), "", false, false, false, false, nil); err != nil {
		return fmt.Errorf("consume %s: %w", s.queue(), err)
	}
	return nil
}

// serve handles requests until ctx is done. Then it deletes the queue.
func (s *plainService) serve(ctx context.Context) error {
	group, working := errgroup.WithContext(context.WithoutCancel(ctx))
	for range plainWorkers {
		group.Go(func() error { return s.work(working) })
	}
	select {
	case <-working.Done():
	case <-ctx.Done():
		s.channel.QueueDelete(s.queue(), false, false, false) // after an error the queue expires
	}
	connect.Close(s.conn)
	if err := group.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// work handles one request after another until the channel is closed.
func (s *plainService) work(ctx context.Context) error {
	for d := range s.requests {
		reply, notification, err := s.handle(ctx, &d)
		if err != nil {
			return fmt.Errorf("handle a request: %w", err)
		}
		if err := s.send(&d, reply, notification); err != nil {
			return err
		}
	}
	return amqp.ErrClosed
}

// send publishes the notification and the reply, and acknowledges the request. The
// notification goes to the exchange of the service's notifications, with a routing key that
// subscribers do not bind.
func (s *plainService) send(d *amqp.Delivery, reply []byte, notification actor.Notification) error {
	if notification.RoutingKey != "" {
		err := s.channel.Publish("amq.topic", plainKey(s.run)+"."+notification.RoutingKey, false, false,
			amqp.Publishing{ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: notification.Body})
		if err != nil {
			return err
		}
	}
	err := s.channel.Publish("", d.ReplyTo, false, false, amqp.Publishing{
		CorrelationId: d.CorrelationId,
		ContentType:   "application/msgpack",
		Body:          reply,
	})
	if err != nil {
		return err
	}
	return d.Ack(false)
}

// handle returns the reply to a request and, after a write, its notification.
func (s *plainService) handle(ctx context.Context, d *amqp.Delivery) (reply []byte, n actor.Notification, err error) {
	operation := strings.TrimPrefix(d.Type, "rpc.user.")
	r, refusal := actor.Parse(operation, d.Body, actor.RequestIDOf(d.MessageId, d.ReplyTo, d.CorrelationId), s.limits)
	switch {
	case refusal != nil:
		return actor.ErrorReply(refusal), n, nil
	case r.Get != nil:
		reply, err = s.get(ctx, r.Get)
		return reply, n, err
	case r.Write != nil && (operation == "patch" || operation == "create"):
		return s.write(ctx, r.Write)
	}
	return actor.ErrorReply(actor.InternalError("the plain service serves get, patch and create")), n, nil
}

func (s *plainService) get(ctx context.Context, l *actor.Lookup) ([]byte, error) {
	id, ok := l.ByIDAlone()
	if !ok {
		return actor.ErrorReply(actor.InternalError("the plain service gets users by id")), nil
	}
	u, err := s.tables.read(ctx, s.database, id, "")
	if err != nil {
		return nil, err
	}
	if u == nil {
		return actor.ErrorReply(actor.NoSuchUser), nil
	}
	return actor.UserReply(u), nil
}

// write applies a patch or a create in a transaction of four round trips.
func (s *plainService) write(ctx context.Context, write *actor.Write) (reply []byte, n actor.Notification, err error) {
	var outcome actor.Outcome
	err = pgx.BeginFunc(ctx, s.database, func(tx pgx.Tx) (err error) {
		var decision actor.Decision
		if write.IsCreate() {
			write.UserID, err = s.tables.insertUser(ctx, tx, write.NewUser())
			if err != nil {
				return err
			}
			decision = write.Decide(nil, false)
			err = s.tables.insertAccounts(ctx, tx, decision.Next)
		} else {
			var current *actor.User
			current, err = s.tables.read(ctx, tx, write.UserID, " FOR UPDATE OF u")
			if err != nil {
				return err
			}
			if decision = write.Decide(current, false); decision.Refusal == nil {
				err = s.tables.update(ctx, tx, current, decision.Next)
			}
		}
		outcome = actor.Outcome{Refusal: decision.Refusal, UserID: write.UserID}
		n = decision.Notification
		return err
	})
	return write.Reply(outcome), n, err
}
