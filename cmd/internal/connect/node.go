package connect

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
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
