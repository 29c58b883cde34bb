package repartition

import (
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/topology"
)

// A Connection is a connection to the broker.
type Connection interface {
	OpenConsuming() (consume.Channel, error)
	OpenPublishing() (publish.Channel, error)
	OpenDeclaring() (DeclaringChannel, error)
	NotifyBlocked(chan amqp.Blocking) chan amqp.Blocking
	IsClosed() bool
	CloseDeadline(time.Time) error
}

// A DeclaringChannel declares and deletes queues.
type DeclaringChannel interface {
	topology.Channel
	QueueDelete(name string, ifUnused, ifEmpty, noWait bool) (int, error)
}

// Over returns the Connection that conn is.
func Over(conn *amqp.Connection) Connection {
	return &connection{conn, consume.Over(conn), publish.Over(conn)}
}

type connection struct {
	*amqp.Connection
	consuming  func() (consume.Channel, error)
	publishing func() (publish.Channel, error)
}

func (c *connection) OpenConsuming() (consume.Channel, error)  { return c.consuming() }
func (c *connection) OpenPublishing() (publish.Channel, error) { return c.publishing() }

func (c *connection) OpenDeclaring() (DeclaringChannel, error) {
	channel, err := c.Channel()
	if err != nil {
		return nil, fmt.Errorf("opening a channel: %w", err)
	}
	return channel, nil
}

// ProberOver returns the prober that uses a connection.
func ProberOver(conn Connection) *topology.Prober {
	return &topology.Prober{
		Open:    conn.OpenPublishing,
		Blocked: conn.NotifyBlocked(make(chan amqp.Blocking, 1)),
		Close:   func() { conn.CloseDeadline(time.Now().Add(closeTimeout)) },
	}
}
