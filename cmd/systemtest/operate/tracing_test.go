package operate

import (
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	tracing "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// callerSpan is the span under which the callers of these tests ask.
const callerSpan = "b7ad6b7169203331"

// traced gives a request a trace of its own, and returns that one's id.
func traced(m *harness.Request) (trace string) {
	trace = strings.ReplaceAll(uuid.NewString(), "-", "")
	m.Headers = amqp.Table{"traceparent": "00-" + trace + "-" + callerSpan + "-01", "tracestate": "vendor=kept"}
	return trace
}

func TestTracing(t *testing.T) {
	t.Parallel()
	t.Run("write", testTracingWrite)
	t.Run("forwarded", testTracingForwarded)
	t.Run("hostile", testTracingHostile)
	t.Run("no_collector", testTracingNoCollector)
}

// A trace leads from the caller to the reply and the notification.
func testTracingWrite(t *testing.T) {
	t.Parallel()
	s, collector := harness.NewSite(t), harness.NewCollector(t)
	v := s.Serve(t, harness.Settings{"tracing.endpoint": collector.URL, "tracing.sample": "0"})
	c, notifications := s.NewCaller(t), s.Subscribe(t)
	create := c.NewRequest("create", harness.NewUser())
	trace := traced(create)
	create.Headers["timestamp_in_ms"] = time.Now().Add(-time.Second).UnixMilli()
	a := c.Ask(t, create)
	a.Result(t)
	n := notifications.Next(t)
	c.Create(t, harness.NewUser()) // not to be traced: the caller has not asked, and the sample is 0
	v.Stop(t)                      // what is left is sent then

	all := collector.Trace(trace)
	if len(collector.Spans) != len(all) {
		t.Errorf("%d spans have come, %d of them of the trace", len(collector.Spans), len(all))
	}
	top := all.ChildrenOf(callerSpan)
	if want := []string{"process glotpod.rpc/ident"}; !reflect.DeepEqual(top.Names(), want) {
		t.Fatalf("under the caller's span there are %v", top.Names())
	}
	process := top[0]
	publish := "publish amq.topic:notifications.user.create"
	below := all.ChildrenOf(harness.SpanID(process))
	if want := []string{"actor wait", "commit", publish, "queue wait", "reply", "route"}; !reflect.DeepEqual(below.Names(), want) {
		t.Errorf("under the request's span there are %v, want %v", below.Names(), want)
	}
	for _, span := range all {
		want := tracing.Span_SPAN_KIND_INTERNAL
		switch {
		case span == process:
			want = tracing.Span_SPAN_KIND_CONSUMER
		case span.Name == "reply" || span.Name == publish:
			want = tracing.Span_SPAN_KIND_PRODUCER
		}
		if span.Kind != want || span.EndTimeUnixNano < span.StartTimeUnixNano {
			t.Errorf("%s is %v, from %d to %d", span.Name, span.Kind, span.StartTimeUnixNano, span.EndTimeUnixNano)
		}
	}
	for key, want := range map[string]string{
		"messaging.system":                  "rabbitmq",
		"messaging.operation.type":          "process",
		"messaging.destination.name":        "glotpod.rpc/ident",
		"messaging.message.id":              create.MessageId,
		"messaging.message.conversation_id": create.CorrelationId,
		"glotpod.ident.operation":           "create",
		"glotpod.ident.outcome":             "ok",
	} {
		if got := harness.Attribute(process, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	for what, x := range map[string]struct {
		headers amqp.Table
		span    string
	}{"answer": {a.Headers, "reply"}, "notification": {n.Headers, publish}} {
		want := amqp.Table{"tracestate": "vendor=kept"}
		if spans := below.WithPrefix(x.span); len(spans) == 1 {
			want["traceparent"] = fmt.Sprintf("00-%s-%s-01", trace, harness.SpanID(spans[0]))
		}
		if !reflect.DeepEqual(x.headers, want) {
			t.Errorf("the %s has the headers %v, want %v", what, x.headers, want)
		}
	}
	collector.CheckSecrets(t)
}

// The trace of a forwarded request leads to the instance that carries it out.
func testTracingForwarded(t *testing.T) {
	t.Parallel()
	s, collector := harness.NewSite(t), harness.NewCollector(t)
	on := harness.Settings{"tracing.endpoint": collector.URL}
	s.Serve(t, on)
	s.Serve(t, on)
	c := s.NewCaller(t)
	harness.Eventually(t, "a request was passed on", func() bool {
		u := c.Create(t, harness.NewUser())
		patch := c.NewRequest("patch", harness.Patch(u, op("replace", "/name", "s3cret Eve")))
		trace := traced(patch)
		c.Ask(t, patch).Result(t)
		var all harness.Spans
		harness.Eventually(t, "the spans have come", func() bool {
			all = collector.Trace(trace)
			top := all.ChildrenOf(callerSpan)
			if len(top) != 1 || harness.Attribute(top[0], "glotpod.ident.outcome") == "passed_on" && len(all.ChildrenOf(harness.SpanID(top[0]))) == 0 {
				return false
			}
			return len(all.WithPrefix("reply")) > 0 && len(all.WithPrefix("publish ")) == 1
		})
		hops := all.WithPrefix("pass on ")
		if len(hops) != 1 || len(all.WithPrefix("reply")) != 1 { // it may have gone to the owner in two ways
			return false
		}
		queue := strings.TrimPrefix(hops[0].Name, "pass on ")
		below := all.ChildrenOf(harness.SpanID(hops[0]))
		if want := []string{"process " + queue}; !reflect.DeepEqual(below.Names(), want) {
			t.Fatalf("under what was passed on there are %v, want %v", below.Names(), want)
		}
		want := []string{"actor wait", "commit", "publish amq.topic:notifications.user.patch", "reply", "route"}
		if got := all.ChildrenOf(harness.SpanID(below[0])).Names(); !reflect.DeepEqual(got, want) {
			t.Errorf("the owner has the spans %v, want %v", got, want)
		}
		return true
	})
	collector.CheckSecrets(t)
}

// What a caller puts into a request's properties keeps nobody's spans from being
// sent, and no refusal has an error that tells of a user.
func testTracingHostile(t *testing.T) {
	t.Parallel()
	s, collector := harness.NewSite(t), harness.NewCollector(t)
	v := s.Serve(t, harness.Settings{"tracing.endpoint": collector.URL, "tracing.sample": "1"})
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, headers := range []amqp.Table{
		{"traceparent": "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{"traceparent": "00-00000000000000000000000000000000-b7ad6b7169203331-01"},
		{"traceparent": strings.Repeat("0", 60_000)},
		{"traceparent": good + "\r\nx: y"},
		{"traceparent": int64(7), "tracestate": list{"a=b"}},
		{"traceparent": []byte(good)},
		{"tracestate": "s3cret=1"},
		{"traceparent": good, "tracestate": strings.Repeat("s3cret=1,", 5000)},
		{"traceparent": good, "tracestate": "\xff=\x00"},
		{"timestamp_in_ms": int64(-1 << 63)},
		{"timestamp_in_ms": int64(1<<63 - 1)},
		{"timestamp_in_ms": "now"},
	} {
		get := c.NewRequest("get", dict{"user_id": u["id"]}).ViaDirectReply(fmt.Sprint(u["id"]))
		get.Headers = headers
		get.MessageId = "\xff\xfe" + get.MessageId
		a := c.Ask(t, get)
		a.IsResult(t, u)
		parent, _ := a.Headers["traceparent"].(string)
		if inside := strings.HasPrefix(parent, good[:36]); len(parent) != 55 || inside != (headers["traceparent"] == good) {
			t.Errorf("%.80q was answered with the traceparent %q", headers, parent)
		}
		if state, ok := a.Headers["tracestate"]; ok {
			t.Errorf("%.80q was answered with the tracestate %q", headers, state)
		}
	}
	refused := c.NewRequest("get", dict{"email": "s3cret-nobody@secret.example"})
	refused.Key = "rpc.user.s3cret"
	trace := traced(refused)
	c.Ask(t, refused).IsError(t, "operation_not_found")
	v.Stop(t)

	top := collector.Trace(trace).ChildrenOf(callerSpan)
	if len(top) != 1 || harness.Attribute(top[0], "error.type") != "operation_not_found" || harness.Attribute(top[0], "glotpod.ident.operation") != "unknown" {
		t.Errorf("the refused request has the spans %v", top)
	}
	if n := len(harness.Spans(collector.Spans).WithPrefix("process ")); n != 14 {
		t.Errorf("%d requests were traced, want 14", n)
	}
	if waits := harness.Spans(collector.Spans).WithPrefix("queue wait"); len(waits) != 0 {
		t.Errorf("stamps were believed: %v", waits)
	}
	collector.CheckSecrets(t)
}

// A collector that is not there, or says nothing, costs nobody a request, and the
// end of the instance no more than some seconds.
func testTracingNoCollector(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	s := harness.NewSite(t)
	v := s.Serve(t, harness.Settings{"tracing.endpoint": "http://" + silent.Addr().String(), "tracing.sample": "1"})
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	for range 2000 { // more spans than may wait
		c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
	}
	v.Stop(t)
	if n := v.Stderr.Count("spans not sent"); n > 1 {
		t.Errorf("the log says %d times that spans are not sent", n)
	}
}
