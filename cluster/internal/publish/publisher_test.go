package publish_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

func TestMain(m *testing.M) { testservers.Main(m) }

const (
	maxMessageSize = 65536
	timeout        = 2 * time.Second
)

// TestPublisher runs publishers over a broker with a small limit on messages.
func TestPublisher(t *testing.T) {
	s := &site{T: t, broker: testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{MaxMessageSize: maxMessageSize})}
	var err error
	if s.conn, err = amqp.Dial(s.broker.URL("/")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	if s.channel, err = s.conn.Channel(); err != nil {
		t.Fatal(err)
	}
	t.Run("outcomes", s.testOutcomes)
	t.Run("a_message_that_is_too_large_costs_itself", s.testTooLarge)
	t.Run("an_exchange_that_may_not_be_published_to", s.testNotPermitted)
	t.Run("a_silent_queue_delays_its_own_messages", s.testSilent)
	t.Run("a_lost_connection_ends_it", s.testLost)
}

// A site is a broker for publishers.
type site struct {
	*testing.T
	broker  *localserver.RabbitMQ
	conn    *amqp.Connection
	channel *amqp.Channel
}

func (s *site) declare(t *testing.T, queue, kind string, args amqp.Table) {
	t.Helper()
	all := amqp.Table{"x-queue-type": kind}
	for key, value := range args {
		all[key] = value
	}
	if _, err := s.channel.QueueDeclare(queue, true, false, false, false, all); err != nil {
		t.Fatal(err)
	}
}

// A sender is a publisher of a test.
type sender struct {
	*publish.Publisher
	t      *testing.T
	opened atomic.Int32 // how many channels
	ended  chan error
	stop   context.CancelFunc
}

// open opens a publisher on a connection of its own.
func (s *site) open(t *testing.T) (*sender, *amqp.Connection) {
	t.Helper()
	conn, err := amqp.Dial(s.broker.URL("/"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	x := &sender{t: t, ended: make(chan error, 1), stop: stop}
	open := publish.Over(conn)
	x.Publisher = publish.New(publish.Options{Timeout: timeout, Open: func() (publish.Channel, error) {
		x.opened.Add(1)
		return open()
	}})
	var running sync.WaitGroup
	running.Go(func() { x.ended <- x.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		conn.Close()
	})
	return x, conn
}

// send publishes a message of so many bytes, and returns where its outcome comes.
func (x *sender) send(exchange, key string, bytes int) <-chan error {
	outcome := make(chan error, 2)
	x.Publish(&publish.Message{
		Exchange: exchange, Key: key, Mandatory: true,
		Publishing: amqp.Publishing{Headers: amqp.Table{}, MessageId: fmt.Sprint(bytes), DeliveryMode: amqp.Persistent, Body: []byte(strings.Repeat("x", bytes))},
		Settled:    func(err error) { outcome <- err },
	})
	return outcome
}

// await returns the outcome, and fails unless it comes soon.
func (x *sender) await(what string, outcome <-chan error) error {
	x.t.Helper()
	select {
	case err := <-outcome:
		return err
	case <-time.After(30 * time.Second):
		x.t.Fatalf("%s: no outcome", what)
		return nil
	}
}

// expect fails unless the outcome comes soon, and is what is wanted.
func (x *sender) expect(what string, outcome <-chan error, want error) {
	x.t.Helper()
	if err := x.await(what, outcome); !errors.Is(err, want) {
		x.t.Errorf("%s: %v", what, err)
	}
}

// expectRejected fails unless the outcome is that the broker has closed the channel.
func (x *sender) expectRejected(what string, outcome <-chan error, code int) {
	x.t.Helper()
	err := x.await(what, outcome)
	var rejected *publish.RejectedError
	if !errors.As(err, &rejected) || rejected.Cause.Code != code {
		x.t.Errorf("%s: %v", what, err)
	}
}

func (s *site) testOutcomes(t *testing.T) {
	s.declare(t, "full", "classic", amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	x, _ := s.open(t)
	x.expect("the first one", x.send("", "full", 1), nil)
	refused, returned := x.send("", "full", 2), x.send("", "missing", 3)
	x.expect("one more", refused, publish.ErrRefused)
	x.expect("to a queue that is missing", returned, publish.ErrReturned)
}

// Messages around one that the broker refuses are accepted, in their order.
func (s *site) testTooLarge(t *testing.T) {
	s.declare(t, "sizes", "quorum", nil)
	x, _ := s.open(t)
	for range 3 {
		var outcomes []<-chan error
		for n := range 20 {
			bytes := n
			if n == 7 || n == 13 {
				bytes += maxMessageSize
			}
			outcomes = append(outcomes, x.send("", "sizes", bytes))
		}
		for n, outcome := range outcomes {
			if n == 7 || n == 13 {
				x.expectRejected("a large message", outcome, amqp.PreconditionFailed)
			} else {
				x.expect("a small message", outcome, nil)
			}
		}
	}
	deliveries, err := s.channel.Consume("sizes", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := make(map[string]int) // when each size was seen first
	for n := 0; len(first) < 18; n++ {
		select {
		case d := <-deliveries:
			if _, seen := first[d.MessageId]; !seen {
				first[d.MessageId] = len(first)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%d of 18 messages have come", len(first))
		}
	}
	want := 0
	for n := range 20 {
		if n == 7 || n == 13 {
			continue
		}
		if first[fmt.Sprint(n)] != want {
			t.Errorf("message %d came as number %d", n, first[fmt.Sprint(n)])
		}
		want++
	}
}

// What an operator forbids, or deletes, costs the messages that need it.
func (s *site) testNotPermitted(t *testing.T) {
	s.declare(t, "permitted", "classic", nil)
	x, _ := s.open(t)
	before := x.send("", "permitted", 1)
	internal := x.send("amq.rabbitmq.trace", "", 2) // an internal exchange
	missing := x.send("missing", "", 3)
	after := x.send("", "permitted", 4)
	x.expect("the one before", before, nil)
	x.expectRejected("to an internal exchange", internal, amqp.AccessRefused)
	x.expectRejected("to a missing exchange", missing, amqp.NotFound)
	x.expect("the one after", after, nil)
}

// The process of a queue is suspended. When the channel is replaced, the one message that is
// on its way to another queue may be lost.
func (s *site) testSilent(t *testing.T) {
	s.declare(t, "silent", "classic", nil)
	s.declare(t, "healthy", "quorum", nil)
	x, _ := s.open(t)
	s.do(t, "suspend", "silent")
	for range 2 {
		x.expect("to another queue", x.send("", "healthy", 1), nil)
		begun, opened := time.Now(), x.opened.Load()
		stuck := x.send("", "silent", 1)
		lost := 0
		toOther := func() {
			switch err := x.await("to another queue", x.send("", "healthy", 1)); {
			case errors.Is(err, publish.ErrLost):
				lost++
			case err != nil:
				t.Fatalf("to another queue: %v", err)
			}
		}
		var err error
		for waiting := true; waiting; {
			select {
			case err = <-stuck:
				waiting = false
			default:
				toOther()
			}
		}
		if took := time.Since(begun); !errors.Is(err, publish.ErrUnconfirmed) || took < timeout {
			t.Fatalf("to the silent queue: %v after %v", err, took)
		}
		for x.opened.Load() == opened {
			toOther() // until the channel is replaced
		}
		if lost > 1 {
			t.Fatalf("%d messages to another queue were lost", lost)
		}
	}
	s.do(t, "resume", "silent")
	x.expect("to the queue that is back", x.send("", "silent", 1), nil)
}

// do suspends or resumes the process of a queue.
func (s *site) do(t *testing.T, what, queue string) {
	t.Helper()
	expression := fmt.Sprintf(`{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"%s">>)),
		P = case amqqueue:get_pid(Q) of {Name, _} -> whereis(Name); Pid -> Pid end, ok = sys:%s(P).`, queue, what)
	if _, err := s.broker.Control.Eval(t.Context(), expression); err != nil {
		t.Fatal(err)
	}
}

func (s *site) testLost(t *testing.T) {
	x, conn := s.open(t)
	conn.Close()
	x.expect("after the connection", x.send("", "missing", 1), publish.ErrLost)
	select {
	case err := <-x.ended:
		if err == nil {
			t.Error("Run returned nil")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Run goes on")
	}
	x.expect("after Run", x.send("", "missing", 1), publish.ErrLost)
}
