// Package telemetry sends the traces and the metrics of an instance to OpenTelemetry
// collectors, by OTLP over HTTP. Nothing is sent unless the settings or the OTEL_…
// environment variables ask for it. It works in the background: a collector that is slow
// or out of reach costs spans and metrics, not requests.
package telemetry

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/throttle"
	"github.com/glotpod/ident/config"
)

const (
	// flushTimeout bounds the wait for the last spans and metrics when the process ends.
	flushTimeout = 3 * time.Second

	// failureLogInterval is the minimum time between two log lines about spans, or about
	// metrics, that could not be sent.
	failureLogInterval = time.Minute
)

// Options say what is sent, and about which instance.
type Options struct {
	Tracing  config.Tracing
	Instance string
	Version  string
	Metrics  prometheus.Gatherer
	Log      *zap.Logger
}

// Telemetry sends traces and metrics until it is closed.
type Telemetry struct {
	Tracer trace.Tracer // nil: nothing is traced

	shutdown []func(context.Context) error
}

// Open starts to send what is asked for. The error joins a [config.Error] for each
// variable whose value is wrong.
func Open(o Options) (*Telemetry, error) {
	p, err := readPlan(o.Tracing)
	if err == nil && p.disabled && o.Tracing.Endpoint != "" {
		o.Log.Warn("OTEL_SDK_DISABLED is set: no traces are sent to tracing.endpoint")
	}
	if err != nil || p.traces == nil && p.metrics == nil {
		return new(Telemetry), err
	}
	about, err := describe(o)
	if err != nil {
		return nil, err
	}
	handled := throttle.New(o.Log, zap.WarnLevel, "telemetry incomplete", failureLogInterval)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { handled.Log(1, zap.Error(err)) }))
	t := new(Telemetry)
	if p.traces != nil {
		if err := t.openTraces(p, about, o.Log); err != nil {
			return nil, err
		}
		o.Log.Info("traces are sent", zap.String("collector", p.traces.endpoint))
	}
	if p.metrics != nil {
		if err := t.openMetrics(p, about, o.Metrics, o.Log); err != nil {
			t.Close()
			return nil, err
		}
		o.Log.Info("metrics are sent", zap.String("collector", p.metrics.endpoint), zap.Duration("interval", p.interval))
	}
	return t, nil
}

// describe returns the resource that sends. The attributes of the environment override ours.
func describe(o Options) (*resource.Resource, error) {
	return resource.New(context.Background(), resource.WithAttributes(
		semconv.ServiceName("glotpod.ident"),
		semconv.ServiceVersion(o.Version),
		semconv.ServiceInstanceID(o.Instance),
	), resource.WithFromEnv())
}

// Close sends the remaining spans, and the metrics once more. It waits for at most
// flushTimeout.
func (t *Telemetry) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	var closing sync.WaitGroup
	for _, shutdown := range t.shutdown {
		closing.Go(func() { shutdown(ctx) }) // the exporter has logged an error
	}
	closing.Wait()
}
