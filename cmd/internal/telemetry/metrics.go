package telemetry

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/throttle"
)

// openMetrics starts to send the metrics that Prometheus would get, under the same names.
func (t *Telemetry) openMetrics(p *plan, about *resource.Resource, metrics prometheus.Gatherer, log *zap.Logger) error {
	// No retries: the next export has all that a lost one had.
	exporter, err := otlpmetrichttp.New(context.Background(),
		otlpmetrichttp.WithEndpointURL(p.metrics.endpoint),
		otlpmetrichttp.WithTimeout(p.metrics.timeout),
		otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{}))
	if err != nil {
		return err
	}
	reader := sdk.NewPeriodicReader(
		loggingMetricExporter{exporter, throttle.New(log, zap.WarnLevel, "metrics not sent", failureLogInterval)},
		sdk.WithInterval(p.interval),
		sdk.WithTimeout(p.exportTimeout),
		sdk.WithProducer(bridge.NewMetricProducer(bridge.WithGatherer(metrics))))
	provider := sdk.NewMeterProvider(sdk.WithResource(about), sdk.WithReader(reader))
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}

// A loggingMetricExporter logs that metrics could not be sent. It returns no error,
// because the SDK would pass the error to a global handler.
type loggingMetricExporter struct {
	sdk.Exporter
	failed *throttle.Logger // counts exports
}

// Export implements [sdk.Exporter].
func (e loggingMetricExporter) Export(ctx context.Context, metrics *metricdata.ResourceMetrics) error {
	if err := e.Exporter.Export(ctx, metrics); err != nil {
		e.failed.Log(1, zap.Error(err))
	}
	return nil
}
