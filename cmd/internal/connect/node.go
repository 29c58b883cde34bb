package connect

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/broker"
)

// NodeOf returns what identifies the node of the broker that a connection leads to. known is
// false if this broker does not tell. It takes one round trip.
//
// The broker puts the node into the direct reply-to name of a message. A message that no queue
// gets comes back with it.
func NodeOf(ctx context.Context, conn *amqp.Connection) (node string, known bool, err error) {
	defer context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })() // a call that waits for the broker ignores ctx
	channel, err := conn.Channel()
	if err != nil {
		return "", false, fmt.Errorf("open a channel: %w", err)
	}
	defer channel.Close() // on an error the connection is lost
	returned := channel.NotifyReturn(make(chan amqp.Return, 1))
	const replyTo = "amq.rabbitmq.reply-to"
	if _, err := channel.Consume(replyTo, "", true, false, false, false, nil); err != nil {
		return "", false, fmt.Errorf("consume replies: %w", err)
	}
	nobody := "glotpod.ident/nobody/" + rand.Text()
	if err := channel.PublishWithContext(ctx, "", nobody, true, false, amqp.Publishing{ReplyTo: replyTo}); err != nil {
		return "", false, fmt.Errorf("publish to no queue: %w", err)
	}
	select {
	case r, ok := <-returned:
		if !ok {
			return "", false, errors.New("the broker has closed the channel")
		}
		node, known = broker.NodeOf(r.ReplyTo)
		return node, known, nil
	case <-ctx.Done():
		return "", false, ctx.Err()
	}
}

// A NodeSample is what a connection tells about the node that it leads to.
type NodeSample struct {
	Conn  *amqp.Connection // nil: it could not be opened
	Node  string
	Known bool  // the node can be told apart from others
	Err   error // why the node is not known, or there is no connection
}

// NodeSamples is how many connections to a broker are compared. Of three nodes that a proxy
// chooses at random, they miss two once in 2,000 times.
const NodeSamples = 8

// SampleNodes opens several connections and asks each for its node. All are open at the same
// time, since a proxy may choose the node with the fewest connections. CloseSamples closes them.
func SampleNodes(ctx context.Context, o broker.Options) []NodeSample {
	samples := make([]NodeSample, NodeSamples)
	var asking sync.WaitGroup
	for i := range samples {
		asking.Go(func() { samples[i] = askNode(ctx, o) })
	}
	asking.Wait()
	return samples
}

func askNode(ctx context.Context, o broker.Options) (s NodeSample) {
	if s.Conn, s.Err = broker.Dial(ctx, o); s.Err != nil {
		return s
	}
	ctx, stop := WithBlocked(ctx, s.Conn)
	defer stop()
	s.Node, s.Known, s.Err = NodeOf(ctx, s.Conn)
	if blocked, ok := errors.AsType[*BlockedError](context.Cause(ctx)); ok {
		s.Err = blocked
	}
	return s
}

// A BlockedError says that the broker reads nothing more from a connection that has published,
// because a node has too little memory or disk space.
type BlockedError struct {
	Reason string // in the words of the broker
}

func (e *BlockedError) Error() string { return "RabbitMQ accepts no messages: " + e.Reason }

// WithBlocked returns a context that is cancelled, with a [*BlockedError] as the cause, when the
// broker blocks the connection. The broker says so once, when the connection has published.
func WithBlocked(ctx context.Context, conn *amqp.Connection) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 1))
	go func() { // until the connection is closed
		for b := range blocked {
			if b.Active {
				cancel(&BlockedError{b.Reason})
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// CloseSamples closes the connections of samples.
func CloseSamples(samples []NodeSample) {
	for _, s := range samples {
		if s.Conn != nil {
			Close(s.Conn)
		}
	}
}
