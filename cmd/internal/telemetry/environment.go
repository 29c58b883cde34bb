package telemetry

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/glotpod/ident/config"
)

const (
	defaultEndpoint      = "http://localhost:4318" // of the specification
	defaultTimeout       = 5 * time.Second
	defaultInterval      = time.Minute      // of the specification
	defaultExportTimeout = 30 * time.Second // of the specification
)

// A plan is what to send, and how.
type plan struct {
	disabled bool // by the environment, whatever the settings say

	traces  *signal // nil: not sent
	sampler sdk.Sampler

	metrics       *signal       // nil: not sent
	interval      time.Duration // from an export of metrics to the next one
	exportTimeout time.Duration // for collecting and sending metrics
}

// A signal is how traces, or metrics, are sent.
type signal struct {
	endpoint string // the whole URL
	timeout  time.Duration
}

// readPlan makes the plan of the settings and of the environment, where the settings say
// nothing. It checks every variable that the plan uses, because the exporters ignore
// wrong values.
func readPlan(settings config.Tracing) (*plan, error) {
	p, e := new(plan), new(environment)
	e.check("OTEL_SDK_DISABLED", oneOf("true", "false"))
	if p.disabled = strings.EqualFold(value("OTEL_SDK_DISABLED"), "true"); p.disabled {
		return p, nil
	}
	switch {
	case settings.Endpoint != "":
		endpoint, err := url.JoinPath(settings.Endpoint, "v1/traces")
		if err != nil {
			return nil, &config.Error{Key: "tracing.endpoint", Err: err}
		}
		p.traces = &signal{endpoint: endpoint}
	case e.asksFor("TRACES"):
		e.checkProtocol("TRACES")
		p.traces = &signal{endpoint: e.endpoint("TRACES")}
	}
	if p.traces != nil {
		p.traces.timeout = e.checkExporter("TRACES")
		p.sampler = sdk.ParentBased(sdk.TraceIDRatioBased(settings.Sample))
		if !settings.SampleGiven {
			p.sampler = cmp.Or(e.sampler(), p.sampler)
		}
	}
	if e.asksFor("METRICS", "prometheus") {
		e.checkProtocol("METRICS")
		e.check("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", oneOf("cumulative"))
		p.metrics = &signal{endpoint: e.endpoint("METRICS"), timeout: e.checkExporter("METRICS")}
		p.interval = e.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", defaultInterval)
		p.exportTimeout = e.milliseconds("OTEL_METRIC_EXPORT_TIMEOUT", defaultExportTimeout)
	}
	if p.traces != nil || p.metrics != nil {
		e.check("OTEL_RESOURCE_ATTRIBUTES", isPairs)
	}
	return p, errors.Join(e.errs...)
}

// value returns the value of a variable, "" if it is not set. It reads the environment of
// the process, as the exporters do.
func value(variable string) string { return strings.TrimSpace(os.Getenv(variable)) }

// An environment collects the errors of variables. They do not contain values that may be
// secret.
type environment struct{ errs []error }

// fail records an error once, also if both signals use the variable.
func (e *environment) fail(variable string, err error) {
	for _, other := range e.errs {
		if failed, ok := errors.AsType[*config.Error](other); ok && failed.Variable == variable {
			return
		}
	}
	e.errs = append(e.errs, &config.Error{Variable: variable, Err: err})
}

// check fails if the variable has a value that valid refuses.
func (e *environment) check(variable string, valid func(string) error) {
	if v := value(variable); v != "" {
		if err := valid(v); err != nil {
			e.fail(variable, err)
		}
	}
}

// exporterVariables returns the names of the variables for one signal and for all, in the
// order of their precedence.
func exporterVariables(signal, option string) []string {
	return []string{"OTEL_EXPORTER_OTLP_" + signal + "_" + option, "OTEL_EXPORTER_OTLP_" + option}
}

// effective returns the first of the variables that is set, or "".
func effective(variables []string) string {
	i := slices.IndexFunc(variables, func(v string) bool { return value(v) != "" })
	if i < 0 {
		return ""
	}
	return variables[i]
}

// asksFor reports whether the environment asks for a signal to be sent by OTLP: it names
// the exporter, or an endpoint and no exporter. Others are known exporters that send
// nothing.
func (e *environment) asksFor(signal string, others ...string) (asked bool) {
	variable := "OTEL_" + signal + "_EXPORTER"
	if value(variable) == "" {
		return effective(exporterVariables(signal, "ENDPOINT")) != ""
	}
	known := append([]string{"otlp", "none"}, others...)
	for name := range strings.SplitSeq(value(variable), ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		if err := oneOf(known...)(name); err != nil {
			e.fail(variable, err)
		}
		asked = asked || name == "otlp"
	}
	return asked
}

// endpoint returns the URL of a signal.
func (e *environment) endpoint(signal string) string {
	variables := exporterVariables(signal, "ENDPOINT")
	variable := effective(variables)
	endpoint := cmp.Or(value(variable), defaultEndpoint)
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		e.fail(variable, errors.New("must be an http or https URL without a user or a query"))
		return ""
	}
	if variable != variables[0] {
		return u.JoinPath("v1", strings.ToLower(signal)).String()
	}
	return endpoint
}

// checkProtocol checks the protocol of a signal whose endpoint is the environment's.
func (e *environment) checkProtocol(signal string) {
	variable := effective(exporterVariables(signal, "PROTOCOL"))
	if variable == "" || strings.EqualFold(value(variable), "http/protobuf") {
		return
	}
	e.fail(variable, fmt.Errorf("must be http/protobuf, not %q; collectors take it at port 4318", value(variable)))
}

// checkExporter checks the variables that the exporter of a signal reads itself, and
// returns the timeout.
func (e *environment) checkExporter(signal string) time.Duration {
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_" + signal + "_"} {
		e.check(prefix+"HEADERS", isHeaders)
		e.check(prefix+"COMPRESSION", isCompression)
		e.check(prefix+"CERTIFICATE", isCertificates)
		e.checkPair(prefix+"CLIENT_CERTIFICATE", prefix+"CLIENT_KEY")
	}
	return e.milliseconds(effective(exporterVariables(signal, "TIMEOUT")), defaultTimeout)
}

// checkPair checks a certificate and its key, which must be given together.
func (e *environment) checkPair(certificate, key string) {
	switch {
	case value(certificate) == "" && value(key) == "":
	case value(key) == "":
		e.fail(certificate, fmt.Errorf("cannot be given without %s", key))
	case value(certificate) == "":
		e.fail(key, fmt.Errorf("cannot be given without %s", certificate))
	default:
		if _, err := tls.LoadX509KeyPair(value(certificate), value(key)); err != nil {
			e.fail(certificate, err)
		}
	}
}

// milliseconds returns a duration. The specification has 0 mean for ever, which nothing
// may last here.
func (e *environment) milliseconds(variable string, initial time.Duration) time.Duration {
	v := value(variable)
	if v == "" {
		return initial
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil || n == 0 {
		e.fail(variable, fmt.Errorf("must be a number of milliseconds from 1 to %d, not %q", 1<<31-1, v))
	}
	return time.Duration(n) * time.Millisecond
}

// sampler returns the sampler that the environment names, or nil.
func (e *environment) sampler() sdk.Sampler {
	const variable, argument = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
	name := strings.ToLower(value(variable))
	if name == "" {
		return nil
	}
	root := strings.TrimPrefix(name, "parentbased_")
	ratio := 1.0
	if v := value(argument); v != "" && root == "traceidratio" {
		var err error
		if ratio, err = strconv.ParseFloat(v, 64); err != nil || !(ratio >= 0 && ratio <= 1) { // also for NaN
			e.fail(argument, fmt.Errorf("must be a number from 0 to 1, not %q", v))
		}
	}
	roots := map[string]sdk.Sampler{"always_on": sdk.AlwaysSample(), "always_off": sdk.NeverSample(), "traceidratio": sdk.TraceIDRatioBased(ratio)}
	sampler, known := roots[root]
	switch {
	case !known:
		e.fail(variable, fmt.Errorf("must be always_on, always_off or traceidratio, with or without parentbased_ before it, not %q", name))
		return nil
	case root != name:
		return sdk.ParentBased(sampler)
	}
	return sampler
}

// oneOf accepts some words in small letters, and in large ones.
func oneOf(words ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(words, strings.ToLower(s)) {
			return fmt.Errorf("must be %s, not %q", strings.Join(words, " or "), s)
		}
		return nil
	}
}

// isCompression accepts what the exporters know. They take GZIP for none.
func isCompression(s string) error {
	if s != "gzip" && s != "none" {
		return fmt.Errorf("must be gzip or none, not %q", s)
	}
	return nil
}

// isPairs accepts key=value pairs, separated by commas. Values may be percent-encoded.
func isPairs(s string) error {
	return eachPair(s, func(key string) bool { return key != "" })
}

var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// isHeaders accepts pairs whose keys are names of HTTP headers.
func isHeaders(s string) error {
	return eachPair(s, headerName.MatchString)
}

func eachPair(s string, validKey func(string) bool) error {
	n := 0
	for pair := range strings.SplitSeq(s, ",") {
		n++
		key, v, found := strings.Cut(pair, "=")
		if _, err := url.PathUnescape(v); err != nil || !found || !validKey(strings.TrimSpace(key)) {
			return fmt.Errorf("must be pairs as in key=value,key=value, with values percent-encoded; pair %d is not one", n)
		}
	}
	return nil
}

// isCertificates accepts the path of a PEM file with certificates.
func isCertificates(path string) error {
	pem, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s has no certificate in PEM form", path)
	}
	return nil
}
