package notify

import (
	"context"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/internal/tracing"
)

// A Channel publishes notifications, and is told which of them the broker accepts.
type Channel interface {
	// Publish sends a message to an exchange.
	Publish(exchange, key string, m amqp.Publishing) (Confirmation, error)

	IsClosed() bool
}

// A Confirmation is the broker's decision on a message. WaitContext waits for it: true
// means that the broker has accepted the message.
type Confirmation interface {
	WaitContext(ctx context.Context) (accepted bool, err error)
}

// Over returns a Channel that uses channel, which it puts into confirm mode.
func Over(channel *amqp.Channel) (Channel, error) {
	if err := channel.Confirm(false); err != nil {
		return nil, fmt.Errorf("asking for confirmations: %w", err)
	}
	return &confirmChannel{channel}, nil
}

type confirmChannel struct{ channel *amqp.Channel }

func (c *confirmChannel) Publish(exchange, key string, m amqp.Publishing) (Confirmation, error) {
	confirmation, err := c.channel.PublishWithDeferredConfirm(exchange, key, false, false, m)
	if err != nil {
		return nil, err
	}
	return confirmation, nil
}

func (c *confirmChannel) IsClosed() bool { return c.channel.IsClosed() }

// publish sends a notification to [topology.NotificationExchange].
func (n *Notifier) publish(out *outbound) (err error) {
	x := &out.notification
	span, headers := startSpan(n.o.Tracer, x)
	out.confirmation, err = n.channel.Publish(topology.NotificationExchange, x.RoutingKey, amqp.Publishing{
		MessageId:    x.MessageID.String(),
		ContentType:  "application/json",
		DeliveryMode: amqp.Persistent,
		Timestamp:    time.Now(),
		AppId:        "glotpod.ident",
		Headers:      headers,
		Body:         x.Body,
	})
	span.End(err == nil)
	if err != nil {
		return fmt.Errorf("sending a notification: %w", err)
	}
	return nil
}

// startSpan starts the span of a notification, and returns the headers that lead to it.
// Without a tracer these are the headers of the request that made the change.
func startSpan(tracer trace.Tracer, x *actor.PendingNotification) (*tracing.MessageSpan, amqp.Table) {
	if tracer == nil {
		return nil, tracing.ParentHeaders(x.TraceParent)
	}
	destination := topology.NotificationExchange + ":" + x.RoutingKey
	s := tracing.StartMessage(tracing.Continue(x.TraceParent, x.TraceState), tracer, "publish "+destination, "publish", len(x.Body))
	if s.Span.IsRecording() {
		s.Span.SetAttributes(semconv.MessagingDestinationName(destination),
			semconv.MessagingRabbitMQDestinationRoutingKey(x.RoutingKey), semconv.MessagingMessageID(x.MessageID.String()))
	}
	return s, s.Headers()
}
