package testservers

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"
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

	// Management is the API of the whole broker, for what a test does to its
	// virtual host from outside.
	Management localserver.Management

	server *localserver.RabbitMQ
}

// URL returns the virtual host's address, as amqp091-go takes it.
func (b *Broker) URL() string { return b.server.URL(b.VHost) }

// RabbitMQ makes a virtual host on the shared broker. It is deleted when the
// test ends, under whoever is still connected to it.
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

// A Queue is what the broker tells of a queue's declaration. How many messages
// and consumers it has is told at once and exactly by a passive declaration
// over AMQP, and late over this API.
type Queue struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"` // "classic" or "quorum"
	Durable    bool           `json:"durable"`
	AutoDelete bool           `json:"auto_delete"`
	Arguments  map[string]any `json:"arguments"`
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

// OwnRabbitMQ starts a broker for one test alone, which may kill and restart
// it. It ends with the test. Without a Dir in the options, it gets a temporary
// one.
func OwnRabbitMQ(t testing.TB, o localserver.RabbitMQOptions) *localserver.RabbitMQ {
	t.Helper()
	if o.Dir == "" {
		o.Dir = testDir(t)
	}
	r, err := localserver.StartRabbitMQ(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Kill)
	return r
}

// uniqueName returns a name for what belongs to the test, by which a person who
// looks at the server can tell whose it is. It needs no quoting anywhere.
func uniqueName(t testing.TB) string {
	const longest = 40 // of the 63 bytes that PostgreSQL leaves of a name
	plain := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(t.Name()))
	return plain[:min(len(plain), longest)] + "_" + strings.ToLower(rand.Text()[:10])
}
