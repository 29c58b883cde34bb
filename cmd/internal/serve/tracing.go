package serve

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/glotpod/ident/config"
)

const (
	spansWaiting = 4096 // at most; what is beyond is dropped
	spansAtOnce  = 512
	sendEvery    = time.Second
	sendTimeout  = 5 * time.Second

	// flushTimeout bounds how long the end of the process waits for the last spans.
	flushTimeout = 3 * time.Second

	// complainEvery is how often the log says that spans cannot be sent.
	complainEvery = time.Minute
)

// tracing sends spans to a collector, beside the work: what cannot be sent in time
// is dropped.
type tracing struct {
	tracer   trace.Tracer // nil: no tracing
	provider *sdk.TracerProvider
}

// openTracing traces as the settings say, or not at all.
func openTracing(c *config.Config, log *zap.Logger, version string) (*tracing, error) {
	if c.Tracing.Endpoint == "" {
		return new(tracing), nil
	}
	endpoint, err := url.JoinPath(c.Tracing.Endpoint, "v1/traces")
	if err != nil {
		return nil, fmt.Errorf("tracing.endpoint: %w", err)
	}
	// It connects when there is something to send.
	exporter, err := otlptracehttp.New(context.Background(),
		otlptracehttp.WithEndpointURL(endpoint),
		otlptracehttp.WithTimeout(sendTimeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{}))
	if err != nil {
		return nil, fmt.Errorf("tracing.endpoint: %w", err)
	}
	provider := sdk.NewTracerProvider(
		sdk.WithResource(resource.NewSchemaless(
			semconv.ServiceName("glotpod.ident"),
			semconv.ServiceVersion(version),
			semconv.ServiceInstanceID(c.Cluster.Instance),
		)),
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(c.Tracing.Sample))),
		sdk.WithBatcher(&complaining{SpanExporter: exporter, log: log},
			sdk.WithMaxQueueSize(spansWaiting),
			sdk.WithMaxExportBatchSize(spansAtOnce),
			sdk.WithBatchTimeout(sendEvery),
			sdk.WithExportTimeout(sendTimeout)),
	)
	return &tracing{tracer: provider.Tracer("github.com/glotpod/ident"), provider: provider}, nil
}

// close sends what is left, as far as that can be done soon.
func (t *tracing) close() {
	if t.provider == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	t.provider.Shutdown(ctx) // what fails has been logged
}

// complaining logs now and then that spans could not be sent, and counts them in
// between. The error stays here: the SDK would hand it to a global handler.
type complaining struct {
	sdk.SpanExporter
	log *zap.Logger

	mu   sync.Mutex // guards the following fields
	told time.Time
	lost int
}

// ExportSpans implements [sdk.SpanExporter].
func (c *complaining) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost += len(spans)
	if time.Since(c.told) >= complainEvery {
		c.log.Warn("spans not sent", zap.Error(err), zap.Int("since_last_told", c.lost))
		c.told, c.lost = time.Now(), 0
	}
	return nil
}
