package notify

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/internal/tracing"
)

// schema is the version of what notifications contain. It rises with each change that a
// subscriber must know about.
const schema = 1

// publish sends a notification to [topology.NotificationExchange], if it is wanted then. settled is
// called with the outcome.
func (c *link) publish(ctx context.Context, tracer trace.Tracer, out *outbound, wanted func(*outbound) bool, settled func(*outbound, error)) {
	x := &out.notification
	p := c.Publisher
	if out.probe {
		p = c.prober(ctx, x.RoutingKey)
	}
	span, headers := startSpan(tracer, x)
	if headers == nil {
		headers = make(amqp.Table, 3)
	}
	headers["schema"] = int32(schema)
	headers["sequence"] = x.Sequence
	headers["committed_at"] = actor.FormatTime(x.CommittedAt)
	p.Publish(&publish.Message{
		Exchange: topology.NotificationExchange,
		Key:      x.RoutingKey,
		Publishing: amqp.Publishing{
			MessageId:    x.MessageID().String(),
			ContentType:  "application/json",
			DeliveryMode: amqp.Persistent,
			Timestamp:    time.Now(),
			AppId:        "glotpod.ident",
			Headers:      headers,
			Body:         x.Body,
		},
		Wanted:  func() bool { return wanted(out) },
		Settled: func(err error) { settled(out, err) },
	})
	span.End(true)
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
			semconv.MessagingRabbitMQDestinationRoutingKey(x.RoutingKey), semconv.MessagingMessageID(x.MessageID().String()))
	}
	return s, s.Headers()
}
