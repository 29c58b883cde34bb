package operate

import (
	"strings"
	"testing"

	measuring "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// launchWith starts an instance called otel with more variables.
func launchWith(t *testing.T, s *harness.Site, variables ...string) *harness.Process {
	t.Helper()
	env := s.Settings.With(harness.Settings{"cluster.instance": "otel"}).Environ()
	return harness.Launch(t, append(env, variables...), "serve")
}

// The usual variables of OpenTelemetry have traces and metrics sent.
func TestTelemetry(t *testing.T) {
	t.Parallel()
	t.Run("environment", testTelemetryEnvironment)
	t.Run("wrong", testTelemetryWrong)
}

func testTelemetryEnvironment(t *testing.T) {
	t.Parallel()
	s, collector := harness.NewSite(t), harness.NewCollector(t)
	v := s.ServeBy(t, func() *harness.Process {
		return launchWith(t, s,
			"OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL,
			"OTEL_EXPORTER_OTLP_HEADERS=x-login=who%20asks",
			"OTEL_EXPORTER_OTLP_COMPRESSION=none",
			"OTEL_METRIC_EXPORT_INTERVAL=3600000", // so metrics come when the instance ends
			"OTEL_TRACES_SAMPLER=always_on",
			"OTEL_SERVICE_NAME=identity",
			"OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test,service.name=other",
		)
	})
	c := s.NewCaller(t)
	for range 20 { // each is traced; by default few would be
		c.Create(t, harness.NewUser())
	}
	v.Stop(t)

	want := map[string]string{"service.name": "identity", "service.instance.id": "otel", "deployment.environment.name": "test"}
	for _, signal := range []string{"traces", "metrics"} {
		attributes, headers := collector.Resource(signal)
		for key, value := range want {
			if attributes[key] != value {
				t.Errorf("%s: %s is %q, want %q", signal, key, attributes[key], value)
			}
		}
		if attributes["service.version"] == "" || headers.Get("x-login") != "who asks" {
			t.Errorf("%s have the resource %v and the headers %v", signal, attributes, headers)
		}
	}
	if n := len(harness.Spans(collector.Spans).WithPrefix("process ")); n != 20 {
		t.Errorf("%d requests were traced, want 20", n)
	}
	created := 0.0
	for _, point := range collector.Metric("glotpod_ident_requests_total").GetSum().GetDataPoints() {
		if hasLabel(point, "operation", "create") && hasLabel(point, "outcome", "ok") {
			created += point.GetAsDouble()
		}
	}
	if created != 20 {
		t.Errorf("the metrics tell of %v users created, want 20", created)
	}
	if n := collector.Metric("glotpod_ident_commit_writes").GetHistogram().GetDataPoints(); len(n) == 0 || n[0].GetCount() == 0 {
		t.Errorf("no commit was counted: %v", n)
	}
	collector.CheckSecrets(t)
}

func hasLabel(point *measuring.NumberDataPoint, key, value string) bool {
	for _, a := range point.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue() == value
		}
	}
	return false
}

// A value that the program cannot use ends it before it serves.
func testTelemetryWrong(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	p := launchWith(t, s, "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
	if status := p.AwaitExit(t, harness.Timeout); status != 78 || !strings.Contains(p.Stderr.String(), "OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf") {
		t.Errorf("it ended with %d: %s", status, p.Stderr.String())
	}
}
