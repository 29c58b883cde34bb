package harness

import (
	"bytes"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collectingmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collecting "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	measuring "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracing "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A collector receives spans and metrics by OTLP over HTTP.
type collector struct {
	URL string

	mu        sync.Mutex // guards the following fields
	raw       []byte     // all that came
	Spans     []*tracing.Span
	metrics   map[string]*measuring.Metric // the last export of each
	resources map[string]map[string]string // attributes, by the path of the last export
	headers   map[string]http.Header       // by the path of the last export
}

func NewCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{metrics: make(map[string]*measuring.Metric), resources: make(map[string]map[string]string), headers: make(map[string]http.Header)}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || !c.take(r, body) {
		http.Error(w, "neither spans nor metrics", http.StatusBadRequest)
	}
}

// take keeps what an export has, and reports whether it is well-formed.
func (c *collector) take(r *http.Request, body []byte) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	path := r.URL.Path
	c.raw = append(c.raw, body...)
	c.headers[path] = r.Header
	switch path {
	case "/v1/traces":
		var export collecting.ExportTraceServiceRequest
		ok = proto.Unmarshal(body, &export) == nil
		for _, resource := range export.ResourceSpans {
			c.resources[path] = texts(resource.Resource.Attributes)
			for _, scope := range resource.ScopeSpans {
				c.Spans = append(c.Spans, scope.Spans...)
			}
		}
	case "/v1/metrics":
		var export collectingmetrics.ExportMetricsServiceRequest
		ok = proto.Unmarshal(body, &export) == nil
		for _, resource := range export.ResourceMetrics {
			c.resources[path] = texts(resource.Resource.Attributes)
			for _, scope := range resource.ScopeMetrics {
				for _, m := range scope.Metrics {
					c.metrics[m.Name] = m
				}
			}
		}
	}
	return ok
}

// texts returns the attributes that are texts.
func texts(attributes []*common.KeyValue) map[string]string {
	all := make(map[string]string)
	for _, a := range attributes {
		all[a.Key] = a.Value.GetStringValue()
	}
	return all
}

// Resource returns the attributes of the resource, and the headers, of the last export of
// "traces" or "metrics", nil if there was none.
func (c *collector) Resource(signal string) (attributes map[string]string, headers http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resources["/v1/"+signal], c.headers["/v1/"+signal]
}

// Metric returns a metric as it came last, nil if it has not come.
func (c *collector) Metric(name string) *measuring.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.metrics[name]
}

// Trace returns the spans of a trace that have come.
func (c *collector) Trace(id string) (spans Spans) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.Spans {
		if hex.EncodeToString(s.TraceId) == id {
			spans = append(spans, s)
		}
	}
	return spans
}

// CheckSecrets fails if there is something in the spans that must not be.
func (c *collector) CheckSecrets(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.raw) == 0 {
		t.Error("no spans have come")
	}
	for _, secret := range append(Secrets, "amq.rabbitmq.reply-to", "amq.gen") {
		if bytes.Contains(bytes.ToLower(c.raw), []byte(secret)) {
			t.Errorf("the spans have %q, which is secret", secret)
		}
	}
}

type Spans []*tracing.Span

// WithPrefix returns the spans whose names begin so.
func (all Spans) WithPrefix(prefix string) (some Spans) {
	for _, s := range all {
		if strings.HasPrefix(s.Name, prefix) {
			some = append(some, s)
		}
	}
	return some
}

// ChildrenOf returns the spans whose parent is this one.
func (all Spans) ChildrenOf(parent string) (some Spans) {
	for _, s := range all {
		if hex.EncodeToString(s.ParentSpanId) == parent {
			some = append(some, s)
		}
	}
	return some
}

func (all Spans) Names() (names []string) {
	for _, s := range all {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

func SpanID(s *tracing.Span) string { return hex.EncodeToString(s.SpanId) }

// Attribute returns a text attribute of a span, "" if it has none.
func Attribute(s *tracing.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}
