package cluster

import (
	"context"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/topology"
)

// Spans follow the semantic conventions for messaging, with these decisions.
//
// Nothing of a user goes into them, nor the user's id. Therefore a request's routing
// key is left out, which is that id where it came the direct way; as is the queue
// that it is answered to: who knows the name of one for direct replies can answer,
// too. The destination of what is taken is its queue, which tells the partition.
//
// The broker does not say how long a message has been in a queue, unless it is
// set up to stamp what it takes in ([stampHeader]); only then is there a span for
// it. The property timestamp is the caller's, and in whole seconds.

const (
	traceStateHeader = "tracestate"

	// stampHeader is when the broker took a message in, in Unix milliseconds, if
	// its message interceptor for timestamps is configured.
	stampHeader = "timestamp_in_ms"

	// stampLimit is how old a stamp may be that is believed.
	stampLimit = 24 * time.Hour
)

var (
	operationKey = attribute.Key("glotpod.ident.operation")
	wayKey       = attribute.Key("glotpod.ident.way")
	outcomeKey   = attribute.Key("glotpod.ident.outcome")
	writesKey    = attribute.Key("glotpod.ident.commit.writes")
)

// A requestTrace makes the spans of a request from when it was taken until it
// ends. On nil, which stands for no tracing, all methods do nothing.
type requestTrace struct {
	tracer  trace.Tracer
	ctx     context.Context // holds span
	span    trace.Span
	reading time.Time // when a read has begun
}

// traceRequest begins the trace of a request that was taken.
func traceRequest(tracer trace.Tracer, c *call) *requestTrace {
	ctx, span := tracer.Start(extract(&c.Delivery), "process "+c.consumer.Queue,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(c.taken))
	t := &requestTrace{tracer: tracer, ctx: ctx, span: span}
	if !span.IsRecording() {
		return t
	}
	operation := c.operation()
	if !isOperation(operation) {
		operation = operationUnknown
	}
	span.SetAttributes(semconv.MessagingSystemRabbitMQ, semconv.MessagingOperationTypeProcess,
		semconv.MessagingOperationName("process"), semconv.MessagingDestinationName(c.consumer.Queue),
		semconv.MessagingMessageBodySize(len(c.Body)), operationKey.String(operation), wayKey.String(c.way()))
	span.SetAttributes(named(&c.Delivery)...)
	if ms, ok := c.Headers[stampHeader].(int64); ok {
		since := time.UnixMilli(ms)
		if wait := c.taken.Sub(since); wait >= 0 && wait < stampLimit {
			t.child("queue wait", since, c.taken)
		}
	}
	return t
}

// named are the attributes that tell a request from others.
func named(d *amqp.Delivery) (all []attribute.KeyValue) {
	if d.MessageId != "" {
		all = append(all, semconv.MessagingMessageID(printable(d.MessageId)))
	}
	if d.CorrelationId != "" {
		all = append(all, semconv.MessagingMessageConversationID(printable(d.CorrelationId)))
	}
	return all
}

// printable makes text of what a caller may have filled with any bytes: others
// would keep all spans from being sent.
func printable(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// child records something that the request has gone through.
func (t *requestTrace) child(name string, from, to time.Time, attributes ...attribute.KeyValue) trace.Span {
	_, span := t.tracer.Start(t.ctx, name, trace.WithTimestamp(from), trace.WithAttributes(attributes...))
	span.End(trace.WithTimestamp(to))
	return span
}

// routed says that it is known since now what a request asks for.
func (t *requestTrace) routed(taken time.Time) {
	if t != nil && t.span.IsRecording() {
		t.child("route", taken, time.Now())
	}
}

// readBegins says that the user is looked for from now on.
func (t *requestTrace) readBegins() {
	if t != nil {
		t.reading = time.Now()
	}
}

// readEnds says that the user was found, or not.
func (t *requestTrace) readEnds() {
	if t != nil && t.span.IsRecording() {
		t.child("read", t.reading, time.Now())
	}
}

// follow has the trace go on with a write.
func (t *requestTrace) follow(w *actor.Write) {
	if t == nil {
		return
	}
	carrier := headers{}
	propagation.TraceContext{}.Inject(t.ctx, carrier)
	w.TraceParent, w.TraceState = carrier.Get(traceHeader), carrier.Get(traceStateHeader)
	if t.span.IsRecording() {
		w.Trace = t
	}
}

// Waited implements [actor.Trace].
func (t *requestTrace) Waited(since, until time.Time) { t.child("actor wait", since, until) }

// Committed implements [actor.Trace]. The span begins when the store was given the
// write: until the transaction, which has an event, it waits for the one before.
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

// end ends the trace: the outcome is as the metrics have it.
func (t *requestTrace) end(outcome string) {
	if t == nil {
		return
	}
	t.span.SetAttributes(outcomeKey.String(outcome))
	switch outcome {
	case outcomeOK, outcomePassedOn:
	case outcomePutBack, outcomeLeft, string(actor.InvocationFailed):
		t.span.SetStatus(codes.Error, "")
		fallthrough
	default: // a refusal, which is the caller's to judge
		t.span.SetAttributes(semconv.ErrorTypeKey.String(outcome))
	}
	t.span.End()
}

// reply begins the span of an answer, whose headers lead to it.
func (t *requestTrace) reply(d *amqp.Delivery, size int) (*sending, amqp.Table) {
	if t == nil {
		return nil, traceHeaders(traceParent(d))
	}
	s := send(t.ctx, t.tracer, "reply", "reply", size)
	if s.span.IsRecording() {
		s.span.SetAttributes(semconv.MessagingDestinationTemporary(true))
		s.span.SetAttributes(named(d)...)
	}
	return s, s.headers()
}

// pass begins the span of a request that is passed on to a queue, whose headers
// lead to it.
func (t *requestTrace) pass(d *amqp.Delivery, queue string) (*sending, amqp.Table) {
	if t == nil {
		h := amqp.Table{}
		if parent := traceParent(d); parent != "" {
			h[traceHeader] = parent
		}
		return nil, h
	}
	s := send(t.ctx, t.tracer, "pass on "+queue, "pass on", len(d.Body))
	if s.span.IsRecording() {
		s.span.SetAttributes(semconv.MessagingDestinationName(queue))
		s.span.SetAttributes(named(d)...)
	}
	return s, s.headers()
}

// notify begins the span of a notification, whose headers lead to it. Without a
// tracer they are the request's.
func notify(tracer trace.Tracer, x *actor.PendingNotification) (*sending, amqp.Table) {
	if tracer == nil {
		return nil, traceHeaders(x.TraceParent)
	}
	destination := topology.RequestExchange + ":" + x.RoutingKey
	from := headers{}
	from.Set(traceHeader, x.TraceParent)
	from.Set(traceStateHeader, x.TraceState)
	s := send(propagation.TraceContext{}.Extract(context.Background(), from), tracer, "publish "+destination, "publish", len(x.Body))
	if s.span.IsRecording() {
		s.span.SetAttributes(semconv.MessagingDestinationName(destination),
			semconv.MessagingRabbitMQDestinationRoutingKey(x.RoutingKey), semconv.MessagingMessageID(x.MessageID.String()))
	}
	return s, s.headers()
}

// A sending is the span of a message that is being sent; nil is none.
type sending struct {
	ctx  context.Context // holds span
	span trace.Span
}

func send(ctx context.Context, tracer trace.Tracer, name, operation string, size int) *sending {
	ctx, span := tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindProducer))
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingSystemRabbitMQ, semconv.MessagingOperationTypeSend,
			semconv.MessagingOperationName(operation), semconv.MessagingMessageBodySize(size))
	}
	return &sending{ctx, span}
}

func (s *sending) headers() amqp.Table {
	h := headers{}
	propagation.TraceContext{}.Inject(s.ctx, h)
	return amqp.Table(h)
}

// end says that the message was sent, or was not, which is said by the type of the
// error alone: its text may have what is not to be told.
func (s *sending) end(ok bool) {
	if s == nil {
		return
	}
	if !ok {
		s.span.SetStatus(codes.Error, "")
		s.span.SetAttributes(semconv.ErrorTypeOther)
	}
	s.span.End()
}

// extract returns the trace that a request came with, a context without one where
// it has none that is well-formed.
func extract(d *amqp.Delivery) context.Context {
	return propagation.TraceContext{}.Extract(context.Background(), headers(d.Headers))
}

// headers are a message's, of which a propagator reads and writes some. Those that
// are no text, or longer than any should be, are not there.
type headers amqp.Table

// headerLimit is the length up to which tracers have to carry a tracestate on.
const headerLimit = 512

func (h headers) Get(key string) string {
	if value, _ := h[key].(string); len(value) <= headerLimit {
		return value
	}
	return ""
}

func (h headers) Set(key, value string) { h[key] = value }

func (h headers) Keys() []string { return nil } // the propagator asks for no more than it knows
