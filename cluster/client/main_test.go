package client_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap/zaptest"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/client"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// optionsFor returns the options for a broker.
func optionsFor(b *testservers.Broker) client.Options {
	return client.Options{Addresses: []string{b.Address()}, VHost: b.VHost, Login: b.User, Password: b.Password, Name: "test"}
}

// dial returns a client that is closed when the test ends.
func dial(t testing.TB, o client.Options) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// serve runs an instance of the service, and returns its broker.
func serve(t *testing.T) *testservers.Broker {
	t.Helper()
	b, database := testservers.RabbitMQ(t), testservers.Postgres(t)
	db, err := pgx.Connect(t.Context(), database.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.WithoutCancel(t.Context()))
	if _, err := store.Migrate(t.Context(), db, func(int, string) {}); err != nil {
		t.Fatal(err)
	}
	users, err := store.Open(t.Context(), store.Options{
		Addresses: []string{database.Address()}, Database: database.Name, User: database.User, Password: database.Password,
		SSLMode: "disable", MaxConnections: 10, Keyring: store.NewKeyring([32]byte{1}), Log: zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(users.Close)
	parameters := ownership.Parameters{Partitions: 4, Table: ownership.TableVersion, QueueType: "classic"}
	if err := users.EnsureParameters(t.Context(), parameters); err != nil {
		t.Fatal(err)
	}
	start, err := users.NextStart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	instance := cluster.New(cluster.Options{
		Store: users, Broker: broker.Options{
			Addresses: []string{b.Address()}, VHost: b.VHost, Login: b.User, Password: b.Password,
			LoginMethod: broker.AMQPlain, Heartbeat: 5 * time.Second, MaxBody: 1 << 20, ConnectionName: t.Name(),
		},
		Start: start, Name: "one", Partitions: parameters.Partitions, QueueType: parameters.QueueType, Secret: [][]byte{{1}},
		Prefetch: 64, Mailbox: 64, Limits: msgpack.Limits{Bytes: 1 << 20, Depth: 32, Values: 100_000}, InFlight: 64 << 20,
		Grace: 20 * time.Second, Log: zaptest.NewLogger(t), Cache: &actor.CacheOptions{Users: 1000, Bytes: 1 << 20, Idle: time.Minute},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- instance.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	for instance.Ready() != nil {
		if time.Sleep(5 * time.Millisecond); ctx.Err() != nil {
			t.Fatal(ctx.Err())
		}
	}
	return b
}

// A scripted service replies to requests as a test says.
type scripted struct {
	broker  *testservers.Broker
	conn    *amqp.Connection
	channel *amqp.Channel
}

// script serves the shared queue of a virtual host. reply gets each request, one after another.
func script(t *testing.T, b *testservers.Broker, reply func(s *scripted, d *amqp.Delivery)) {
	t.Helper()
	conn, err := amqp.Dial(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{broker: b, conn: conn}
	s.channel, err = conn.Channel()
	if err == nil {
		_, err = s.channel.QueueDeclare("glotpod.rpc/ident", true, false, false, false, nil)
	}
	if err == nil {
		err = s.channel.QueueBind("glotpod.rpc/ident", "rpc.user.#", "amq.topic", false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	requests, err := s.channel.Consume("glotpod.rpc/ident", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for d := range requests {
			reply(s, &d)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
}

// send sends a reply.
func (s *scripted) send(d *amqp.Delivery, body []byte) {
	s.channel.Publish("", d.ReplyTo, false, false, amqp.Publishing{CorrelationId: d.CorrelationId, Body: body})
}

// offer sends a reply over a channel of its own, which the broker closes if the reply is larger than
// its max_message_size, and reports whether the broker took it.
func (s *scripted) offer(d *amqp.Delivery, body []byte) bool {
	channel, err := s.conn.Channel()
	if err != nil {
		return false
	}
	defer channel.Close()
	if err := channel.Confirm(false); err != nil {
		return false
	}
	sent, err := channel.PublishWithDeferredConfirm("", d.ReplyTo, false, false, amqp.Publishing{CorrelationId: d.CorrelationId, Body: body})
	return err == nil && sent.Wait()
}

// A proxy stands between clients and the broker.
type proxy struct {
	address  string
	listener net.Listener

	mu      sync.Mutex // guards the following fields
	conns   []net.Conn
	stalled bool // nothing is passed on to the broker
	changed *sync.Cond
}

func newProxy(t *testing.T, b *testservers.Broker) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: listener.Addr().String(), listener: listener}
	p.changed = sync.NewCond(&p.mu)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", b.Address())
			if err != nil {
				near.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, near, far)
			p.mu.Unlock()
			running.Go(func() { p.pass(far, near, true) })
			running.Go(func() { p.pass(near, far, false) })
		}
	})
	t.Cleanup(func() {
		p.close()
		running.Wait()
	})
	return p
}

func (p *proxy) pass(to, from net.Conn, toBroker bool) {
	defer to.Close()
	defer from.Close()
	for buffer := make([]byte, 32<<10); ; {
		n, err := from.Read(buffer)
		p.mu.Lock()
		for toBroker && p.stalled {
			p.changed.Wait()
		}
		p.mu.Unlock()
		if _, writeErr := to.Write(buffer[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

// stall keeps bytes back that go to the broker, and takes no more in, or goes on.
func (p *proxy) stall(stalled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = stalled
	p.changed.Broadcast()
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		conn.Close()
	}
	p.conns = nil
}

// close closes all connections and accepts no new ones.
func (p *proxy) close() {
	p.listener.Close()
	p.stall(false)
	p.cut()
}

// is fails unless err is each of the targets.
func is(t *testing.T, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("the error is %v, not %v", err, target)
		}
	}
}
