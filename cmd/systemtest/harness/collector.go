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

	collecting "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracing "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A collector receives spans by OTLP over HTTP.
type collector struct {
	URL string

	mu    sync.Mutex // guards the following fields
	raw   []byte     // all that came
	Spans []*tracing.Span
}

func NewCollector(t *testing.T) *collector {
	t.Helper()
	c := new(collector)
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var export collecting.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &export) != nil {
		http.Error(w, "no spans", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, body...)
	for _, resource := range export.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.Spans = append(c.Spans, scope.Spans...)
		}
	}
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
