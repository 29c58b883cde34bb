package serve

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// The partition queues of a new cluster are classic only if nothing shows that the broker has
// several nodes.
func TestChooseQueueType(t *testing.T) {
	options := func(r *localserver.RabbitMQ) broker.Options {
		return broker.Options{Addresses: []string{r.Address()}, VHost: "/", LoginMethod: broker.Plain, Heartbeat: 10 * time.Second, Login: r.User, Password: r.Password}
	}
	check := func(t *testing.T, o broker.Options, want string) {
		t.Helper()
		if got, why, err := chooseQueueType(t.Context(), o); got != want || why == "" || err != nil {
			t.Errorf("got %q because of %q, %v, want %q", got, why, err, want)
		}
	}
	first := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{})
	t.Run("one_node", func(t *testing.T) { check(t, options(first), "classic") })
	t.Run("connections_refused", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		o := options(first)
		o.Addresses = []string{inTurn(t, first.Address(), l.Addr().String())} // every other one is refused
		check(t, o, "quorum")
	})
	t.Run("queues_that_exist", func(t *testing.T) {
		for name, arguments := range map[string]amqp.Table{
			"classic": nil,
			"quorum":  {"x-queue-type": "quorum", "x-single-active-consumer": true},
		} {
			if err := first.Management.CreateVHost(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			o := options(first)
			o.VHost = name
			conn, err := broker.Dial(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			channel, err := conn.Channel()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := channel.QueueDeclare(cluster.PartitionQueue(0), true, false, false, false, arguments); err != nil {
				t.Fatal(err)
			}
			check(t, o, name)
		}
	})
	t.Run("several_nodes", func(t *testing.T) {
		second := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{Join: first})
		o := options(first)
		o.Addresses = []string{inTurn(t, first.Address(), second.Address())}
		check(t, o, "quorum")
		check(t, options(second), "classic") // all connections go there, and so do the queues
	})
	t.Run("several_hosts", func(t *testing.T) {
		o := options(first)
		o.Addresses = append(o.Addresses, "127.0.0.1:1") // a node that is not there yet
		check(t, o, "quorum")
	})
	t.Run("unreachable", func(t *testing.T) {
		o := options(first)
		o.Addresses = []string{"127.0.0.1:1"}
		if got, _, err := chooseQueueType(t.Context(), o); err == nil {
			t.Errorf("got %q", got)
		} else if _, ok := errors.AsType[*broker.DialError](err); !ok {
			t.Errorf("got %v", err)
		}
	})
	t.Run("out_of_time", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got, _, err := chooseQueueType(ctx, options(first)); err == nil {
			t.Errorf("got %q", got)
		}
	})
}

// inTurn listens on a port that leads to each of two addresses in turn.
func inTurn(t *testing.T, addresses ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for i := 0; ; i++ {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", addresses[i%len(addresses)])
			if err != nil {
				client.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				go func() {
					defer way[0].Close()
					io.Copy(way[0], way[1])
				}()
			}
		}
	}()
	return l.Addr().String()
}
