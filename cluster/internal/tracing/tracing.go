// Package tracing carries W3C trace contexts in the headers of messages, and makes the
// spans of messages that are sent.
//
// It validates what callers put into headers, and lets nothing of a user into a span.
// The spans of a request's processing are left to package cluster, and exporting them to
// the program.
package tracing

import (
	"context"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Headers that carry a trace context.
const (
	parentHeader = "traceparent"
	stateHeader  = "tracestate"
)

// stateLimit is the length up to which the W3C recommendation has a tracestate
// propagated. A longer one is ignored.
const stateLimit = 512

// Parent returns the traceparent of a request, "" if it has none that is well-formed.
func Parent(d *amqp.Delivery) string { return headers(d.Headers).Get(parentHeader) }

// ParentHeaders returns the headers of a message that continues the trace of parent,
// nil if that is "".
func ParentHeaders(parent string) amqp.Table {
	if parent == "" {
		return nil
	}
	return amqp.Table{parentHeader: parent}
}

// Of returns the trace context in the headers of a message, "" if it has none that is well-formed.
func Of(h amqp.Table) (parent, state string) {
	return headers(h).Get(parentHeader), headers(h).Get(stateHeader)
}

// Headers returns headers with a trace context, nil if there is none.
func Headers(parent, state string) amqp.Table {
	h := ParentHeaders(parent)
	if h != nil && state != "" {
		h[stateHeader] = state
	}
	return h
}

// Extract returns a context with the trace context of a message, or without one if the
// message has none that is well-formed.
func Extract(h amqp.Table) context.Context {
	return propagation.TraceContext{}.Extract(context.Background(), headers(h))
}

// Continue is like [Extract] for a trace context that was stored.
func Continue(parent, state string) context.Context {
	h := headers{}
	h.Set(parentHeader, parent)
	h.Set(stateHeader, state)
	return Extract(amqp.Table(h))
}

// Inject returns the trace context of ctx, to be stored.
func Inject(ctx context.Context) (parent, state string) {
	h := headers{}
	propagation.TraceContext{}.Inject(ctx, h)
	return h.Get(parentHeader), h.Get(stateHeader)
}

// Printable replaces invalid UTF-8 in text from a caller. An attribute with invalid
// UTF-8 would keep the whole batch of spans from being exported.
func Printable(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// A MessageSpan is the span of a message that is being sent. A nil MessageSpan stands
// for no tracing: End does nothing.
type MessageSpan struct {
	ctx  context.Context // has Span
	Span trace.Span
}

// StartMessage starts the span of a message of so many bytes.
func StartMessage(ctx context.Context, tracer trace.Tracer, name, operation string, size int) *MessageSpan {
	ctx, span := tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindProducer))
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingSystemRabbitMQ, semconv.MessagingOperationTypeSend,
			semconv.MessagingOperationName(operation), semconv.MessagingMessageBodySize(size))
	}
	return &MessageSpan{ctx, span}
}

// Headers returns the headers that lead from the message to its span.
func (s *MessageSpan) Headers() amqp.Table {
	h := headers{}
	propagation.TraceContext{}.Inject(s.ctx, h)
	return amqp.Table(h)
}

// End ends the span. If the message was not sent, the span says so, but not why: the
// text of the error may contain what must not leave the log.
func (s *MessageSpan) End(sent bool) {
	if s == nil {
		return
	}
	if !sent {
		s.Span.SetStatus(codes.Error, "")
		s.Span.SetAttributes(semconv.ErrorTypeOther)
	}
	s.Span.End()
}

// headers lets a propagator read and write the headers of a message. Values that are
// not text, a malformed traceparent and a tracestate that is too long count as missing.
type headers amqp.Table

func (h headers) Get(key string) string {
	value, _ := h[key].(string)
	if key == parentHeader && !isParent(value) || len(value) > stateLimit {
		return ""
	}
	return value
}

func (h headers) Set(key, value string) { h[key] = value }

// Keys returns nil: the propagator for trace contexts does not need it.
func (h headers) Keys() []string { return nil }
