package testservers

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/glotpod/ident/deploy/localserver"
)

// A Broker is an empty virtual host that belongs to one test.
type Broker struct {
	Host     string
	Port     int
	VHost    string
	User     string // an administrator of the whole broker
	Password string

	// Management is the management API of the whole broker.
	Management localserver.Management

	server *localserver.RabbitMQ
}

// Address returns host:port.
func (b *Broker) Address() string { return net.JoinHostPort(b.Host, strconv.Itoa(b.Port)) }

// URL returns the virtual host's connection URL.
func (b *Broker) URL() string { return b.server.URL(b.VHost) }

// RabbitMQ creates a virtual host on the shared broker. It is deleted when the test
// ends, even if clients are still connected.
func RabbitMQ(t testing.TB) *Broker {
	t.Helper()
	server, err := shared.getRabbitMQ(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{
		Host:       server.Host,
		Port:       server.Port,
		VHost:      uniqueName(t),
		User:       server.User,
		Password:   server.Password,
		Management: server.Management,
		server:     server,
	}
	if err := b.Management.CreateVHost(t.Context(), b.VHost); err != nil {
		t.Fatalf("create a virtual host for the test: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := b.Management.DeleteVHost(ctx, b.VHost); err != nil {
			t.Errorf("delete the test's virtual host: %v", err)
		}
	})
	return b
}

// A Queue is how a queue was declared, as the management API returns it. That API
// returns the number of messages and consumers late. For the exact number, use a passive
// declaration over AMQP.
type Queue struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"` // "classic" or "quorum"
	Durable    bool           `json:"durable"`
	AutoDelete bool           `json:"auto_delete"`
	Arguments  map[string]any `json:"arguments"`
}

// A Login is a user of the broker.
type Login struct {
	Name     string
	Password string
	URL      string // to connect to the virtual host
}

// NewLogin makes a user of the broker with permissions in the virtual host, as
// [localserver.Management.Permit] has them. kind is part of the name. The user is deleted when the test
// ends.
func (b *Broker) NewLogin(t testing.TB, kind, configure, write, read string) Login {
	t.Helper()
	l := Login{Name: kind + "-of-" + b.VHost, Password: "s3cret-password"}
	if err := b.Management.CreateUser(t.Context(), l.Name, l.Password); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Management.DeleteUser(context.Background(), l.Name) })
	if err := b.Management.Permit(t.Context(), l.Name, b.VHost, configure, write, read); err != nil {
		t.Fatal(err)
	}
	address, err := url.Parse(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.UserPassword(l.Name, l.Password)
	l.URL = address.String()
	return l
}

// Queues lists the queues of the virtual host.
func (b *Broker) Queues(t testing.TB) []Queue {
	t.Helper()
	var queues []Queue
	if err := b.Management.Call(t.Context(), http.MethodGet, "/api/queues/"+url.PathEscape(b.VHost), nil, &queues); err != nil {
		t.Fatal(err)
	}
	return queues
}

// SuspendQueue freezes the process of a queue of the virtual host until resume is called,
// or the test ends: the queue takes in and delivers nothing, and confirms nothing. Both
// take a second or two.
func (b *Broker) SuspendQueue(t testing.TB, queue string) (resume func()) {
	t.Helper()
	call := func(ctx context.Context, function string) error {
		_, err := b.server.Control.Eval(ctx, fmt.Sprintf(`{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<%q>>, queue, <<%q>>)),
			Pid = case amqqueue:get_pid(Q) of {Name, _} -> whereis(Name); P -> P end, sys:%s(Pid).`, b.VHost, queue, function))
		return err
	}
	if err := call(t.Context(), "suspend"); err != nil {
		t.Fatal(err)
	}
	resume = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := call(ctx, "resume"); err != nil {
			t.Errorf("resume the queue %s: %v", queue, err)
		}
	})
	t.Cleanup(resume)
	return resume
}

// OwnRabbitMQ starts a broker for one test, which may kill and restart it. The broker is
// killed when the test ends. If o.Dir is empty, the broker gets a temporary folder.
func OwnRabbitMQ(t testing.TB, o localserver.RabbitMQOptions) *localserver.RabbitMQ {
	t.Helper()
	if o.Dir == "" {
		o.Dir = Dir(t)
	}
	r, err := localserver.StartRabbitMQ(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Kill)
	return r
}

// uniqueName returns a name for the test's database or virtual host. It begins with the
// test's name, so that it can be recognized on the server. It needs no quoting.
func uniqueName(t testing.TB) string {
	const longest = 40 // bytes; PostgreSQL truncates names after 63
	plain := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(t.Name()))
	return plain[:min(len(plain), longest)] + "_" + strings.ToLower(rand.Text()[:10])
}
