package tracing

import (
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	parent  = "00-" + traceID + "-b7ad6b7169203331-01"
)

func TestParent(t *testing.T) {
	later := "cc" + parent[2:] // a version that does not exist yet
	for name, x := range map[string]struct {
		header any
		want   string
	}{
		"valid":                     {parent, parent},
		"unknown_flags":             {parent[:53] + "ff", parent[:53] + "ff"},
		"missing":                   {nil, ""},
		"not_text":                  {7, ""},
		"short":                     {parent[:54], ""},
		"longer":                    {parent + "-more", ""},
		"with_a_dash":               {parent + "-", ""},
		"upper_case":                {strings.ToUpper(parent), ""},
		"upper_case_trace_id":       {strings.Replace(parent, "af", "AF", 1), ""},
		"line_breaks":               {parent + "\r\n", ""},
		"dashes_elsewhere":          {"00-" + traceID[:31] + "-b7ad6b71692033310-01", ""},
		"other_separators":          {strings.ReplaceAll(parent, "-", "_"), ""},
		"only_dashes":               {strings.Repeat("-", 55), ""},
		"trace_id_is_not_hex":       {"00-" + traceID[:31] + "g" + parent[35:], ""},
		"trace_id_is_zero":          {"00-" + strings.Repeat("0", 32) + parent[35:], ""},
		"span_id_is_not_hex":        {"00-" + traceID + "-b7ad6b716920333z-01", ""},
		"span_id_is_zero":           {"00-" + traceID + "-0000000000000000-01", ""},
		"flags_are_not_hex":         {parent[:53] + "0x", ""},
		"version_ff":                {"ff" + parent[2:], ""},
		"version_is_not_hex":        {"0x" + parent[2:], ""},
		"later_version":             {later, later},
		"later_version_longer":      {later + "-more", later + "-more"},
		"later_version_runs_on":     {later + "more", ""},
		"later_version_line_breaks": {later + "-more\r\n", ""},
		"later_version_long":        {later + "-" + strings.Repeat("0", 200), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Parent(&amqp.Delivery{Headers: amqp.Table{"traceparent": x.header}}); got != x.want {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	t.Run("of_a_parent", func(t *testing.T) {
		if h := ParentHeaders(parent); len(h) != 1 || h["traceparent"] != parent {
			t.Errorf("%v", h)
		}
		if h := ParentHeaders(""); h != nil {
			t.Errorf("%v", h)
		}
	})

	t.Run("are_injected_as_they_were_extracted", func(t *testing.T) {
		ctx := Extract(amqp.Table{"traceparent": parent, "tracestate": "vendor=1", "other": int32(1)})
		if p, state := Inject(ctx); p != parent || state != "vendor=1" {
			t.Errorf("%q %q", p, state)
		}
		if p, state := Inject(Continue(parent, "vendor=1")); p != parent || state != "vendor=1" {
			t.Errorf("%q %q", p, state)
		}
	})

	t.Run("that_are_too_long_are_ignored", func(t *testing.T) {
		if _, state := Inject(Continue(parent, "vendor="+strings.Repeat("1", stateLimit))); state != "" {
			t.Errorf("%q", state)
		}
	})

	t.Run("that_are_malformed_are_ignored", func(t *testing.T) {
		for _, p := range []string{"", "garbage", parent[1:], parent + "-more", strings.ToUpper(parent), "ff" + parent[2:]} {
			if c := trace.SpanContextFromContext(Continue(p, "")); c.IsValid() {
				t.Errorf("%q is continued", p)
			}
		}
	})
}

func TestPrintable(t *testing.T) {
	if s := Printable("a\xffb"); s != "a\uFFFDb" {
		t.Errorf("%q", s)
	}
}

func TestMessageSpan(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)).Tracer("")
	sent := StartMessage(Continue(parent, ""), tracer, "reply", "reply", 7)
	if p, _ := sent.Headers()["traceparent"].(string); !strings.Contains(p, traceID) || p == parent {
		t.Errorf("the headers are %v", sent.Headers())
	}
	sent.End(true)
	failed := StartMessage(Continue(parent, ""), tracer, "reply", "reply", 7)
	failed.End(false)
	var none *MessageSpan
	none.End(true)

	ended := spans.Ended()
	if len(ended) != 2 {
		t.Fatalf("%d spans have ended", len(ended))
	}
	if s := ended[0]; s.SpanKind() != trace.SpanKindProducer || s.Parent().TraceID().String() != traceID || s.Status().Code != codes.Unset {
		t.Errorf("the span is %+v", s)
	}
	if s := ended[1]; s.Status().Code != codes.Error || s.Status().Description != "" {
		t.Errorf("the span of a failure is %+v", s.Status())
	}
}
