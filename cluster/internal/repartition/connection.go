package repartition

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/broker"
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

// errHangs means that the broker does not respond about one queue.
var errHangs = errors.New("the broker does not respond: the queue may have no leader")

// within calls f, which waits for the broker. If that takes too long, f goes on until the
// connection is closed.
func (m *mover) within(ctx context.Context, limit time.Duration, f func() error) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	done := make(chan error, 1)
	m.running.Go(func() { done <- f() })
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return errHangs
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// isMissing reports whether the broker has no such queue. It returns false if the queue's node is down,
// which the broker does not find either. A queue of that name is made for a moment if there is none. It has an
// argument that no other has: so the broker refuses to make it if the node is back.
func (m *mover) isMissing(ctx context.Context, queue string, durable, exclusive bool, args amqp.Table) (missing bool, err error) {
	args = maps.Clone(args)
	if args == nil {
		args = make(amqp.Table)
	}
	args["x-expires"] = time.Minute.Milliseconds()
	err = m.within(ctx, callFor, func() error {
		channel, err := m.conn.OpenDeclaring()
		if err != nil {
			return err
		}
		defer channel.Close()
		if _, err = channel.QueueDeclare(queue, durable, exclusive, exclusive, false, args); err != nil {
			return err
		}
		_, err = channel.QueueDelete(queue, false, false, false)
		return err
	})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, errHangs) || broker.IsCode(err, amqp.NotFound) || broker.IsCode(err, amqp.ResourceLocked):
		return false, nil
	case broker.IsCode(err, amqp.PreconditionFailed):
		if found := m.look(ctx, queue); broker.IsCode(found, amqp.NotFound) {
			return false, topology.QueueLimitError(m.r.From.Partitions+m.r.To.Partitions, err)
		}
		return false, nil
	}
	return false, fmt.Errorf("looking for the queue %s: %w", queue, err)
}

// look returns the broker's error if it does not find a queue.
func (m *mover) look(ctx context.Context, queue string) error {
	return m.within(ctx, callFor, func() error {
		channel, err := m.conn.OpenDeclaring()
		if err != nil {
			return err
		}
		defer channel.Close()
		_, err = channel.QueueDeclarePassive(queue, false, true, true, false, nil)
		return err
	})
}
