package cluster

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/metrics"
)

func TestRequestTrace(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	user := userOf(1, 0)

	// spansOf returns the spans of a session by their name, once the test has run.
	traced := func(name string, test func(*testing.T, *testSession), check func(*testing.T, map[string]sdk.ReadOnlySpan)) {
		bubble(t, name, &fakeStore{}, func(t *testing.T, s *testSession) {
			recorder := tracetest.NewSpanRecorder()
			s.session.o.Tracer = sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder)).Tracer("")
			test(t, s)
			spans := make(map[string]sdk.ReadOnlySpan)
			for _, span := range recorder.Ended() {
				spans[span.Name()] = span
				for _, a := range span.Attributes() {
					if strings.Contains(a.Value.String(), "Ada") || a.Value.String() == itoa(user) {
						t.Errorf("the span %s has %s = %s of a user", span.Name(), a.Key, a.Value.String())
					}
				}
			}
			check(t, spans)
		})
	}

	traced("a_write_has_its_stages", func(t *testing.T, s *testSession) {
		s.serve(1)
		d := forwarded(patch(1, user))
		d.Headers = map[string]any{"traceparent": parent, stampHeader: time.Now().Add(-time.Second).UnixMilli()}
		s.channel().deliveries <- d
		body := s.oneReply(s.channel())
		if errorCode(body) != "" {
			t.Error(decode(t, body))
		}
		if p, _ := s.channel().sent()[0].message.Headers["traceparent"].(string); !strings.Contains(p, parent[3:35]) {
			t.Errorf("the reply has the headers %v", s.channel().sent()[0].message.Headers)
		}
	}, func(t *testing.T, spans map[string]sdk.ReadOnlySpan) {
		root := spans["process "+PartitionQueue(1)]
		if root == nil || root.Parent().TraceID().String() != parent[3:35] || root.Status().Code == codes.Error {
			t.Fatalf("the spans are %v", spans)
		}
		for _, name := range []string{"queue wait", "route", "reply"} {
			if span := spans[name]; span == nil || span.Parent().SpanID() != root.SpanContext().SpanID() {
				t.Errorf("there is no child %s", name)
			}
		}
		if wait := spans["queue wait"]; wait != nil && wait.EndTime().Sub(wait.StartTime()) != time.Second {
			t.Error("the wait in the queue is not a second")
		}
	})

	traced("a_stamp_that_is_too_old_is_not_believed", func(t *testing.T, s *testSession) {
		s.startShared()
		d := get(1, user)
		d.Headers = map[string]any{stampHeader: int64(1)}
		s.shared.deliveries <- d
		s.oneReply(s.shared)
	}, func(t *testing.T, spans map[string]sdk.ReadOnlySpan) {
		if spans["queue wait"] != nil || spans["read"] == nil {
			t.Errorf("the spans are %v", spans)
		}
	})

	traced("the_caller_is_named", func(t *testing.T, s *testSession) {
		s.startShared()
		d := get(1, user)
		d.UserId = "glotpod-auth"
		s.shared.deliveries <- d
		s.oneReply(s.shared)
	}, func(t *testing.T, spans map[string]sdk.ReadOnlySpan) {
		if attributes := spans["process "+RequestQueue].Attributes(); !slices.Contains(attributes, callerKey.String("glotpod-auth")) {
			t.Errorf("the attributes are %v", attributes)
		}
	})

	traced("a_forward_leads_on", func(t *testing.T, s *testSession) {
		s.startShared()
		s.shared.deliveries <- patch(1, user)
		m := s.oneForward(PartitionQueue(1)).message
		if p, _ := m.Headers["traceparent"].(string); p == "" {
			t.Errorf("the headers are %v", m.Headers)
		}
		s.confirm(1, true)
		synctest.Wait()
	}, func(t *testing.T, spans map[string]sdk.ReadOnlySpan) {
		if spans["pass on "+PartitionQueue(1)] == nil || spans["process "+RequestQueue] == nil {
			t.Errorf("the spans are %v", spans)
		}
	})

	t.Run("outcomes", func(t *testing.T) {
		for outcome, want := range map[string]codes.Code{
			metrics.OutcomeOK: codes.Unset, metrics.OutcomeForwarded: codes.Unset, metrics.OutcomeRequeued: codes.Error, metrics.OutcomeLeft: codes.Error,
			string(actor.InvocationFailed): codes.Error, string(actor.NotFound): codes.Unset,
		} {
			recorder := tracetest.NewSpanRecorder()
			tracer := sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder)).Tracer("")
			ctx, span := tracer.Start(t.Context(), "process")
			(&requestTrace{tracer: tracer, ctx: ctx, span: span}).end(outcome)
			if got := recorder.Ended()[0].Status(); got.Code != want || got.Description != "" {
				t.Errorf("%s: %+v", outcome, got)
			}
		}
	})

	t.Run("commit", func(t *testing.T) {
		recorder := tracetest.NewSpanRecorder()
		tracer := sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder)).Tracer("")
		ctx, span := tracer.Start(t.Context(), "process")
		trace := &requestTrace{tracer: tracer, ctx: ctx, span: span}
		now := time.Now()
		trace.Waited(now, now.Add(time.Second))
		trace.Committed(now, now.Add(time.Second), 3, nil)
		trace.Committed(now, time.Time{}, 0, errDown)
		ended := recorder.Ended()
		if len(ended) != 3 || ended[0].Name() != "actor wait" || ended[0].EndTime().Sub(ended[0].StartTime()) != time.Second {
			t.Fatalf("the spans are %v", ended)
		}
		if s := ended[1]; len(s.Events()) != 1 || len(s.Attributes()) != 1 || s.Status().Code == codes.Error {
			t.Errorf("the commit is %v %v", s.Events(), s.Attributes())
		}
		if s := ended[2]; len(s.Events()) != 0 || s.Status().Code != codes.Error {
			t.Errorf("the failed commit is %v %v", s.Events(), s.Status())
		}
	})

	t.Run("none", func(t *testing.T) {
		var none *requestTrace
		none.routed(time.Now())
		none.readStarts()
		none.readEnds()
		none.attach(&actor.Write{})
		none.end(metrics.OutcomeOK)
		d := get(1, user)
		if span, headers := none.startReply(&d, 1); span != nil || headers != nil {
			t.Errorf("a reply has the headers %v", headers)
		}
		if span, headers := none.startForward(&d, "queue"); span != nil || headers == nil {
			t.Error("a forward has no headers to add to")
		}
	})
}
