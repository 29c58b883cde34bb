package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/throttle"
)

const (
	maxQueuedSpans = 4096 // further spans are dropped
	maxBatchSpans  = 512
	sendInterval   = time.Second
)

func (t *Telemetry) openTraces(p *plan, about *resource.Resource, log *zap.Logger) error {
	// The exporter connects when it has spans to send. It reads the variables that plan
	// has checked, and does not keep.
	exporter, err := otlptracehttp.New(context.Background(),
		otlptracehttp.WithEndpointURL(p.traces.endpoint),
		otlptracehttp.WithEncoding(otlptracehttp.EncodingProtobuf),
		otlptracehttp.WithTimeout(p.traces.timeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{}))
	if err != nil {
		return err
	}
	provider := sdk.NewTracerProvider(
		sdk.WithResource(about),
		sdk.WithSampler(p.sampler),
		sdk.WithBatcher(&loggingExporter{exporter, throttle.New(log, zap.WarnLevel, "spans not sent", failureLogInterval)},
			sdk.WithMaxQueueSize(maxQueuedSpans),
			sdk.WithMaxExportBatchSize(maxBatchSpans),
			sdk.WithBatchTimeout(sendInterval),
			sdk.WithExportTimeout(p.traces.timeout)),
	)
	t.Tracer = provider.Tracer("github.com/glotpod/ident")
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
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
