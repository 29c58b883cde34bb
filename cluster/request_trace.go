package cluster

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/tracing"
	"github.com/glotpod/ident/cluster/tracelog"
)

// Spans follow the semantic conventions for messaging, with these decisions.
//
// A span contains nothing of a user, not even the user's id. So the routing key of a
// request is left out, since it is the user's id if the request was sent directly. The
// reply queue is left out as well: a client that knows the name of a direct reply-to
// queue can send replies to it. The destination of a request is its queue, which tells
// the partition.
//
// The broker does not say how long a message was in a queue, unless it is set up to
// stamp the messages that it receives ([stampHeader]). Only then is there a span for the
// time in the queue. The property timestamp is the caller's, in whole seconds.

const (
	// stampHeader is when the broker received a message, in Unix milliseconds, if its
	// message interceptor for timestamps is configured.
	stampHeader = "timestamp_in_ms"

	// maxStampAge is the greatest age of a stamp that is believed.
	maxStampAge = 24 * time.Hour
)

var (
	operationKey = attribute.Key("glotpod.ident.operation")
	wayKey       = attribute.Key("glotpod.ident.way")
	outcomeKey   = attribute.Key("glotpod.ident.outcome")
	callerKey    = attribute.Key("glotpod.ident.caller")
	writesKey    = attribute.Key("glotpod.ident.commit.writes")
)

// A requestTrace makes the spans of one request. A nil requestTrace stands for no
// tracing: its methods do nothing.
type requestTrace struct {
	tracer    trace.Tracer
	ctx       context.Context // has span
	span      trace.Span
	readStart time.Time
}

// traceRequest starts the span of a request that was received.
func traceRequest(tracer trace.Tracer, r *request) *requestTrace {
	queue := r.consumer.Queue
	if r.relayed != nil {
		queue = relayQueueName
	}
	ctx, span := tracer.Start(tracing.Extract(r.delivery.Headers), "process "+queue,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(r.received))
	t := &requestTrace{tracer: tracer, ctx: ctx, span: span}
	if !span.IsRecording() {
		return t
	}
	operation := r.operation()
	if !actor.IsOperation(operation) {
		operation = metrics.OperationUnknown
	}
	span.SetAttributes(semconv.MessagingSystemRabbitMQ, semconv.MessagingOperationTypeProcess,
		semconv.MessagingOperationName("process"), semconv.MessagingDestinationName(queue),
		semconv.MessagingMessageBodySize(len(r.delivery.Body)), operationKey.String(operation), wayKey.String(r.way()))
	span.SetAttributes(idAttributes(&r.delivery)...)
	if r.caller != "" {
		span.SetAttributes(callerKey.String(tracing.Printable(r.caller)))
	}
	if ms, ok := r.delivery.Headers[stampHeader].(int64); ok {
		since := time.UnixMilli(ms)
		if wait := r.received.Sub(since); wait >= 0 && wait < maxStampAge {
			t.child("queue wait", since, r.received)
		}
	}
	return t
}

// idAttributes returns the attributes that identify a request.
func idAttributes(d *amqp.Delivery) (all []attribute.KeyValue) {
	if d.MessageId != "" {
		all = append(all, semconv.MessagingMessageID(tracing.Printable(d.MessageId)))
	}
	if d.CorrelationId != "" {
		all = append(all, semconv.MessagingMessageConversationID(tracing.Printable(d.CorrelationId)))
	}
	return all
}

// child records a finished step of the request.
func (t *requestTrace) child(name string, from, to time.Time) {
	_, span := t.tracer.Start(t.ctx, name, trace.WithTimestamp(from))
	span.End(trace.WithTimestamp(to))
}

// routed records that the request was received at a time and has been parsed by now.
func (t *requestTrace) routed(received time.Time) {
	if t != nil && t.span.IsRecording() {
		t.child("route", received, time.Now())
	}
}

// readStarts notes that reading the user starts.
func (t *requestTrace) readStarts() {
	if t != nil {
		t.readStart = time.Now()
	}
}

// readEnds records that reading the user has ended.
func (t *requestTrace) readEnds() {
	if t != nil && t.span.IsRecording() {
		t.child("read", t.readStart, time.Now())
	}
}

// attach makes the spans of a write part of the trace.
func (t *requestTrace) attach(w *actor.Write) {
	if t == nil {
		return
	}
	w.TraceParent, w.TraceState = tracing.Inject(t.ctx)
	if t.span.IsRecording() {
		w.Trace = t
	}
}

// traceFields returns the fields of log lines about the request: the ids of its trace and of its
// span or, if this instance makes none, of its caller's span.
func traceFields(r *request) []zap.Field {
	parent := ""
	if r.trace != nil {
		parent, _ = tracing.Inject(r.trace.ctx)
	} else {
		parent = tracing.Parent(&r.delivery)
	}
	return tracelog.Fields(parent)
}

// requestLog returns a log for lines about the request.
func requestLog(r *request) *zap.Logger { return r.session.o.Log.With(traceFields(r)...) }

// Waited implements [actor.Trace].
func (t *requestTrace) Waited(since, until time.Time) { t.child("actor wait", since, until) }

// Committed implements [actor.Trace]. The span starts when the store received the write.
// Until the event "transaction", the write waits for the transaction before it.
func (t *requestTrace) Committed(since, begun time.Time, writes int, err error) {
	_, span := t.tracer.Start(t.ctx, "commit", trace.WithTimestamp(since))
	if !begun.IsZero() {
		span.AddEvent("transaction", trace.WithTimestamp(begun))
	}
	if writes > 0 {
		span.SetAttributes(writesKey.Int(writes))
	}
	if err != nil {
		span.SetStatus(codes.Error, "") // the log says why
	}
	span.End()
}

// end ends the span of the request with an outcome of the metric requests_total.
func (t *requestTrace) end(outcome string) {
	if t == nil {
		return
	}
	t.span.SetAttributes(outcomeKey.String(outcome))
	switch outcome {
	case metrics.OutcomeOK, metrics.OutcomeForwarded:
	case metrics.OutcomeRequeued, metrics.OutcomeLeft, string(actor.InvocationFailed):
		t.span.SetStatus(codes.Error, "")
		fallthrough
	default: // an error reply because of the request itself
		t.span.SetAttributes(semconv.ErrorTypeKey.String(outcome))
	}
	t.span.End()
}

// startReply starts the span of a reply, and returns the headers that lead to it.
func (t *requestTrace) startReply(d *amqp.Delivery, size int) (*tracing.MessageSpan, amqp.Table) {
	if t == nil {
		return nil, tracing.ParentHeaders(tracing.Parent(d))
	}
	s := tracing.StartMessage(t.ctx, t.tracer, "reply", "reply", size)
	if s.Span.IsRecording() {
		s.Span.SetAttributes(semconv.MessagingDestinationTemporary(true))
		s.Span.SetAttributes(idAttributes(d)...)
	}
	return s, s.Headers()
}

// startForward starts the span of a request that is forwarded to a queue, and returns
// the headers that lead to it.
func (t *requestTrace) startForward(d *amqp.Delivery, queue string) (*tracing.MessageSpan, amqp.Table) {
	if t == nil {
		if h := tracing.ParentHeaders(tracing.Parent(d)); h != nil {
			return nil, h
		}
		return nil, amqp.Table{}
	}
	s := tracing.StartMessage(t.ctx, t.tracer, "pass on "+queue, "pass on", len(d.Body))
	if s.Span.IsRecording() {
		s.Span.SetAttributes(semconv.MessagingDestinationName(queue))
		s.Span.SetAttributes(idAttributes(d)...)
	}
	return s, s.Headers()
}
