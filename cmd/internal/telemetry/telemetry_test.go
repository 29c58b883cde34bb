package telemetry

import (
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/config"
)

func TestDescribe(t *testing.T) {
	ours := map[string]string{"service.name": "glotpod.ident", "service.version": "1.2.3", "service.instance.id": "ident-0"}
	for _, c := range []struct {
		env  []string
		want map[string]string // besides ours
	}{
		{nil, nil},
		{[]string{"OTEL_SERVICE_NAME=name"}, map[string]string{"service.name": "name"}},
		{[]string{"OTEL_RESOURCE_ATTRIBUTES=service.name=other, a = b%2Cc "}, map[string]string{"service.name": "other", "a": "b,c"}},
		{[]string{"OTEL_RESOURCE_ATTRIBUTES=service.name=other,service.instance.id=pod", "OTEL_SERVICE_NAME=name"},
			map[string]string{"service.name": "name", "service.instance.id": "pod"}},
	} {
		setenv(t, c.env...)
		about, err := describe(Options{Instance: "ident-0", Version: "1.2.3"})
		if err != nil {
			t.Errorf("%v: %v", c.env, err)
			continue
		}
		got := make(map[string]string)
		for _, a := range about.Attributes() {
			got[string(a.Key)] = a.Value.String()
		}
		for key, want := range ours {
			if other, ok := c.want[key]; ok {
				want = other
			}
			if got[key] != want {
				t.Errorf("%v: %s is %q, want %q", c.env, key, got[key], want)
			}
		}
		for key, want := range c.want {
			if got[key] != want {
				t.Errorf("%v: %s is %q, want %q", c.env, key, got[key], want)
			}
		}
	}
}

// A collector that does not answer delays the end by a bounded time, is logged once, and
// leaves nothing that runs.
func TestSilentCollector(t *testing.T) {
	defer goleak.VerifyNone(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	setenv(t, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+silent.Addr().String(), "OTEL_EXPORTER_OTLP_TIMEOUT=20", "OTEL_METRIC_EXPORT_INTERVAL=1")
	core, logs := observer.New(zap.WarnLevel)
	collected := make(chan struct{})
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "x"}, func() float64 {
		collected <- struct{}{}
		return 1
	}))
	sending, err := Open(Options{Tracing: config.Tracing{Sample: 1, SampleGiven: true}, Instance: "ident-0", Metrics: metrics, Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // the third one is after two failed exports
		<-collected
	}
	go func() {
		for range collected { // the last one, when it is closed
		}
	}()
	_, span := sending.Tracer.Start(t.Context(), "x")
	span.End()
	began := time.Now()
	sending.Close()
	if took := time.Since(began); took > flushTimeout+10*time.Second {
		t.Errorf("closing took %v", took)
	}
	close(collected)
	for message, want := range map[string]int{"metrics not sent": 1, "spans not sent": 1} {
		if n := logs.FilterMessage(message).Len(); n != want {
			t.Errorf("%q was logged %d times, want %d", message, n, want)
		}
	}
}

func TestNothingAskedFor(t *testing.T) {
	defer goleak.VerifyNone(t)
	setenv(t)
	sending, err := Open(Options{Tracing: noTracing, Log: zap.NewNop()})
	if err != nil || sending.Tracer != nil || len(sending.shutdown) > 0 {
		t.Errorf("%+v, %v", sending, err)
	}
	sending.Close()
}
