package integration_test

import (
	"context"
	"crypto/rand"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/rpc"
)

// A caller sends each request once, by either way.
type caller struct{ link *rpc.Link }

func (s *setup) client() *caller {
	s.t.Helper()
	conn, err := amqp.Dial(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	link, err := rpc.Open(conn)
	if err != nil {
		s.t.Fatal(err)
	}
	return &caller{link}
}

// Call sends a request to the shared queue. If the message id is empty, it gets a new one.
func (c *caller) Call(ctx context.Context, operation, messageID string, body []byte) ([]byte, error) {
	return c.send(ctx, "amq.topic", "rpc.user."+operation, amqp.Publishing{MessageId: messageID, Body: body})
}

// CallDirect sends a request to the partition of its user.
func (c *caller) CallDirect(ctx context.Context, userID int64, operation, messageID string, body []byte) ([]byte, error) {
	return c.send(ctx, "glotpod.ident", strconv.FormatInt(userID, 10), amqp.Publishing{Type: "rpc.user." + operation, MessageId: messageID, Body: body})
}

func (c *caller) send(ctx context.Context, exchange, key string, m amqp.Publishing) ([]byte, error) {
	m.DeliveryMode = amqp.Persistent
	if m.MessageId == "" {
		m.MessageId = rand.Text()
	}
	return c.link.Send(ctx, &rpc.Message{Exchange: exchange, Key: key, Publishing: m})
}
