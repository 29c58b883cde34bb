package serve

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/throttle"
	"github.com/glotpod/ident/config"
)

const (
	maxQueuedSpans = 4096 // further spans are dropped
	maxBatchSpans  = 512
	sendInterval   = time.Second
	sendTimeout    = 5 * time.Second

	// flushTimeout bounds the wait for the last spans when the process ends.
	flushTimeout = 3 * time.Second

	// failureLogInterval is the minimum time between two log lines about spans that
	// could not be sent.
	failureLogInterval = time.Minute
)

// tracing sends spans to a collector in the background. It drops spans that cannot be
// sent in time.
type tracing struct {
	tracer   trace.Tracer // nil: no tracing
	provider *sdk.TracerProvider
}

// openTracing starts tracing. It does nothing if the settings name no collector.
func openTracing(c *config.Config, log *zap.Logger, version string) (*tracing, error) {
	if c.Tracing.Endpoint == "" {
		return new(tracing), nil
	}
	endpoint, err := url.JoinPath(c.Tracing.Endpoint, "v1/traces")
	if err != nil {
		return nil, fmt.Errorf("tracing.endpoint: %w", err)
	}
	// The exporter connects when it has spans to send.
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
		sdk.WithBatcher(&loggingExporter{exporter, throttle.New(log, zap.WarnLevel, "spans not sent", failureLogInterval)},
			sdk.WithMaxQueueSize(maxQueuedSpans),
			sdk.WithMaxExportBatchSize(maxBatchSpans),
			sdk.WithBatchTimeout(sendInterval),
			sdk.WithExportTimeout(sendTimeout)),
	)
	return &tracing{tracer: provider.Tracer("github.com/glotpod/ident"), provider: provider}, nil
}

// close sends the remaining spans. It waits for at most flushTimeout.
func (t *tracing) close() {
	if t.provider == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	t.provider.Shutdown(ctx) // the exporter has logged an error
}

// A loggingExporter logs that spans could not be sent, and how many. It returns no
// error, because the SDK would pass the error to a global handler.
type loggingExporter struct {
	exporter sdk.SpanExporter
	failed   *throttle.Logger // counts spans
}

// ExportSpans implements [sdk.SpanExporter].
func (e *loggingExporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	if err := e.exporter.ExportSpans(ctx, spans); err != nil {
		e.failed.Log(len(spans), zap.Error(err))
	}
	return nil
}

// Shutdown implements [sdk.SpanExporter].
func (e *loggingExporter) Shutdown(ctx context.Context) error { return e.exporter.Shutdown(ctx) }
