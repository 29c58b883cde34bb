package telemetry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/config"
)

// setenv sets variables, given as name=value, and no other OTEL_ variable.
func setenv(t *testing.T, variables ...string) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	for _, entry := range variables {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
}

// noTracing has the defaults of the settings.
var noTracing = config.Tracing{Sample: 0.1}

func TestReadPlan(t *testing.T) {
	const local, all = "http://localhost:4318", "OTEL_EXPORTER_OTLP_ENDPOINT=http://all:4318"
	set := config.Tracing{Endpoint: "https://set:4318/x", Sample: 0.1}
	for name, c := range map[string]struct {
		env             []string
		settings        config.Tracing
		traces, metrics string // endpoints
	}{
		"nothing is asked for":                {},
		"an empty variable counts as not set": {env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=", "OTEL_METRICS_EXPORTER="}},
		"a resource asks for nothing":         {env: []string{"OTEL_SERVICE_NAME=x", "OTEL_RESOURCE_ATTRIBUTES=a=b", "OTEL_TRACES_SAMPLER=always_on"}},
		"the setting asks for traces alone":   {settings: set, traces: "https://set:4318/x/v1/traces"},
		"the setting wins":                    {settings: set, env: []string{all}, traces: "https://set:4318/x/v1/traces", metrics: "http://all:4318/v1/metrics"},
		"the setting wins over none":          {settings: set, env: []string{"OTEL_TRACES_EXPORTER=none"}, traces: "https://set:4318/x/v1/traces"},
		"the setting has its protocol":        {settings: set, env: []string{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, traces: "https://set:4318/x/v1/traces"},
		"one endpoint for all":                {env: []string{all}, traces: "http://all:4318/v1/traces", metrics: "http://all:4318/v1/metrics"},
		"a path, with a slash":                {env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=https://all/x/"}, traces: "https://all/x/v1/traces", metrics: "https://all/x/v1/metrics"},
		"an endpoint of traces as it is":      {env: []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://one/x"}, traces: "http://one/x"},
		"an endpoint of metrics as it is":     {env: []string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://one/x"}, metrics: "http://one/x"},
		"its own endpoint first":              {env: []string{all, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://one/x"}, traces: "http://all:4318/v1/traces", metrics: "http://one/x"},
		"no metrics":                          {env: []string{all, "OTEL_METRICS_EXPORTER=None"}, traces: "http://all:4318/v1/traces"},
		"metrics for Prometheus":              {env: []string{all, "OTEL_METRICS_EXPORTER=prometheus"}, traces: "http://all:4318/v1/traces"},
		"metrics for both":                    {env: []string{"OTEL_METRICS_EXPORTER=prometheus, otlp"}, metrics: local + "/v1/metrics"},
		"metrics at the usual place":          {env: []string{"OTEL_METRICS_EXPORTER=otlp"}, metrics: local + "/v1/metrics"},
		"traces at the usual place":           {env: []string{"OTEL_TRACES_EXPORTER=otlp"}, traces: local + "/v1/traces"},
		"disabled":                            {env: []string{all, "OTEL_SDK_DISABLED=True", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}},
		"disabled wins over the setting":      {settings: set, env: []string{"OTEL_SDK_DISABLED=true"}},
		"not disabled":                        {env: []string{all, "OTEL_SDK_DISABLED=false"}, traces: "http://all:4318/v1/traces", metrics: "http://all:4318/v1/metrics"},
		"what is not sent is not checked":     {env: []string{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_METRIC_EXPORT_INTERVAL=soon"}},
	} {
		t.Run(name, func(t *testing.T) {
			setenv(t, c.env...)
			p, err := readPlan(c.settings)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range []struct {
				name string
				got  *signal
				want string
			}{{"traces", p.traces, c.traces}, {"metrics", p.metrics, c.metrics}} {
				if x.got == nil && x.want != "" || x.got != nil && x.got.endpoint != x.want {
					t.Errorf("%s go to %+v, want %q", x.name, x.got, x.want)
				}
			}
		})
	}
}

func TestDurations(t *testing.T) {
	const on = "OTEL_EXPORTER_OTLP_ENDPOINT=http://all"
	setenv(t, on)
	p, err := readPlan(noTracing)
	if err != nil || p.traces.timeout != 5*time.Second || p.metrics.timeout != 5*time.Second || p.interval != time.Minute || p.exportTimeout != 30*time.Second {
		t.Errorf("without variables: %+v, %v", p, err)
	}
	setenv(t, on, "OTEL_EXPORTER_OTLP_TIMEOUT=1500", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT=2500", "OTEL_METRIC_EXPORT_INTERVAL=3500", "OTEL_METRIC_EXPORT_TIMEOUT=4500")
	p, err = readPlan(noTracing)
	if err != nil || p.traces.timeout != 1500*time.Millisecond || p.metrics.timeout != 2500*time.Millisecond || p.interval != 3500*time.Millisecond || p.exportTimeout != 4500*time.Millisecond {
		t.Errorf("with variables: %+v, %v", p, err)
	}
}

func TestSampler(t *testing.T) {
	const on = "OTEL_TRACES_EXPORTER=otlp"
	for _, c := range []struct {
		sampler, argument string
		given             bool   // tracing.sample is set
		want              string // in the sampler's description
	}{
		{"", "", false, "ParentBased{root:TraceIDRatioBased{0.1}"},
		{"", "0.7", false, "ParentBased{root:TraceIDRatioBased{0.1}"},
		{"always_on", "", true, "ParentBased{root:TraceIDRatioBased{0.1}"},
		{"no_sampler", "9", true, "ParentBased{root:TraceIDRatioBased{0.1}"},
		{"always_on", "", false, "AlwaysOnSampler"},
		{"ALWAYS_OFF", "", false, "AlwaysOffSampler"},
		{"always_off", "no number, not used", false, "AlwaysOffSampler"},
		{"traceidratio", "0.25", false, "TraceIDRatioBased{0.25}"},
		{"parentbased_always_on", "", false, "ParentBased{root:AlwaysOnSampler"},
		{"parentbased_always_off", "", false, "ParentBased{root:AlwaysOffSampler"},
		{"parentbased_traceidratio", "0.25", false, "ParentBased{root:TraceIDRatioBased{0.25}"},
		{"parentbased_traceidratio", "", false, "ParentBased{root:TraceIDRatioBased{1}"},
	} {
		setenv(t, on, "OTEL_TRACES_SAMPLER="+c.sampler, "OTEL_TRACES_SAMPLER_ARG="+c.argument)
		p, err := readPlan(config.Tracing{Sample: 0.1, SampleGiven: c.given})
		if err != nil {
			t.Errorf("%+v: %v", c, err)
		} else if got := p.sampler.Description(); !strings.HasPrefix(got, c.want) {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestWrongValues(t *testing.T) {
	noCertificate := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(noCertificate, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	const on = "OTEL_EXPORTER_OTLP_ENDPOINT=http://all"
	for _, wrong := range []string{
		"OTEL_SDK_DISABLED=yes",
		"OTEL_TRACES_EXPORTER=zipkin",
		"OTEL_TRACES_EXPORTER=prometheus",
		"OTEL_METRICS_EXPORTER=otlp,console",
		"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318",
		"OTEL_EXPORTER_OTLP_ENDPOINT=grpc://collector:4317",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://:4318",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://me:s3cret@collector",
		"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://collector?key=s3cret",
		"OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
		"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc",
		"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL=http/json",
		"OTEL_EXPORTER_OTLP_HEADERS=s3cret",
		"OTEL_EXPORTER_OTLP_HEADERS=a=b,s3cret s3cret=x",
		"OTEL_EXPORTER_OTLP_TRACES_HEADERS=a=%s3cret",
		"OTEL_EXPORTER_OTLP_COMPRESSION=zstd",
		"OTEL_EXPORTER_OTLP_COMPRESSION=GZIP",
		"OTEL_EXPORTER_OTLP_CERTIFICATE=" + noCertificate,
		"OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE=/nowhere/ca.pem",
		"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=client.pem",
		"OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY=client.key",
		"OTEL_EXPORTER_OTLP_TIMEOUT=5s",
		"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT=0",
		"OTEL_EXPORTER_OTLP_METRICS_TIMEOUT=-1",
		"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=delta",
		"OTEL_METRIC_EXPORT_INTERVAL=1m",
		"OTEL_METRIC_EXPORT_TIMEOUT=0",
		"OTEL_TRACES_SAMPLER=jaeger_remote",
		"OTEL_TRACES_SAMPLER=parentbased_",
		"OTEL_RESOURCE_ATTRIBUTES=a=b,c",
		"OTEL_RESOURCE_ATTRIBUTES==b",
		"OTEL_RESOURCE_ATTRIBUTES=a=%zz",
	} {
		setenv(t, on, wrong)
		checkWrong(t, wrong)
	}
	for _, ratio := range []string{"1.1", "-0.1", "NaN", "some"} {
		wrong := "OTEL_TRACES_SAMPLER_ARG=" + ratio
		setenv(t, on, "OTEL_TRACES_SAMPLER=traceidratio", wrong)
		checkWrong(t, wrong)
	}
}

// checkWrong fails unless the plan has one error, which names the variable and no secret.
func checkWrong(t *testing.T, wrong string) {
	t.Helper()
	variable, _, _ := strings.Cut(wrong, "=")
	_, err := readPlan(noTracing)
	if err == nil || cli.StatusOf(err) != cli.StatusSettings {
		t.Errorf("%s: %v, status %d", wrong, err, cli.StatusOf(err))
		return
	}
	if text := err.Error(); !strings.HasPrefix(text, variable+": ") || strings.Contains(text, "\n") || strings.Contains(text, "s3cret") {
		t.Errorf("%s: %s", wrong, text)
	}
}
