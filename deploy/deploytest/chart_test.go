package deploytest

import (
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// key is the only required value.
const key = "settings.database.encryption_key=hU0ZKsJiKyKmVfCHCHyQKIPfKXRBdoWlhbIdaVMEEnI="

// values returns the files with example values, one for each way to use the chart.
func values(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(chart + "/ci/*-values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no example values: %v", err)
	}
	return files
}

func TestLint(t *testing.T) {
	for _, helm := range []string{"helm", "helm3"} {
		mustRun(t, exec.Command(tool(t, helm), "lint", "--strict", chart))
		for _, file := range values(t) {
			mustRun(t, exec.Command(tool(t, helm), "lint", "--strict", chart, "--values", file))
		}
	}
}

// Both versions of Helm must render the same objects.
func TestHelmVersionsAgree(t *testing.T) {
	for _, file := range values(t) {
		var made []map[string]any
		for _, helm := range []string{"helm", "helm3"} {
			made = append(made, objects(t, mustRun(t, exec.Command(tool(t, helm), "template", "ident", chart, "--values", file))))
		}
		if len(made[0]) != len(made[1]) {
			t.Errorf("%s: %d and %d objects", file, len(made[0]), len(made[1]))
		}
		for name := range made[0] {
			a, _ := yaml.Marshal(made[0][name])
			b, _ := yaml.Marshal(made[1][name])
			if string(a) != string(b) {
				t.Errorf("%s: %s differs:\n%s\n%s", file, name, a, b)
			}
		}
	}
}

func TestWrongValuesAreRefused(t *testing.T) {
	for _, test := range []struct {
		set  []string
		says string // part of the output
	}{
		{[]string{"replica=3"}, "replica"},
		{[]string{"replicas=-1"}, "replicas"},
		{[]string{"replicas=three"}, "replicas"},
		{[]string{"image.tag=a b"}, "tag"},
		{[]string{"commonLabels.a=b c"}, "commonLabels"},
		{[]string{`podLabels.app\.kubernetes\.io/name=other`}, "podLabels"},
		{[]string{"secret.label.a=b"}, "secret"},
		{[]string{"podSecurityContext=none"}, "podSecurityContext"},
		{[]string{"envFrom[0].secretRef=ident"}, "envFrom"},
		{[]string{"extraContainers[0].image=busybox"}, "extraContainers"},
		{[]string{"extraVolumeMounts[0].name=a"}, "extraVolumeMounts"},
		{[]string{"extraObjects=text"}, "extraObjects"},
		{[]string{"image.digest=sha256:abc"}, "digest"},
		{[]string{"image.pullPolicy=Sometimes"}, "pullPolicy"},
		{[]string{"port=80"}, "port"},
		{[]string{"drainSeconds=0"}, "drainSeconds"},
		{[]string{"marginSeconds=0"}, "marginSeconds"},
		{[]string{"resources.limits.memory=lots"}, "memory"},
		{[]string{"goMemoryLimit=900Mi"}, "goMemoryLimit"},
		{[]string{"podDisruptionBudget.maxUnavailable=0"}, "maxUnavailable"},
		{[]string{"updateStrategy.type=Recreate"}, "updateStrategy"},
		{[]string{"topologySpread[0].topologyKey=zone"}, "topologySpread"},
		{[]string{"files[0].name=tls"}, "files"},
		{[]string{"files[0].name=settings", "files[0].secret=s"}, "files"},
		{[]string{"files[0].name=tls", "files[0].secret=s", "files[0].configMap=c"}, "files"},
		{[]string{"autoscaling.by=memory"}, "autoscaling"},
		{[]string{"settings.amqp.hots=rabbitmq"}, "hots"},
		{[]string{"settings.amqp.port=70000"}, "port"},
		{[]string{"settings.amqp.port=amqp"}, "port"},
		{[]string{"settings.amqp.heartbeat=3"}, "heartbeat"},
		{[]string{"settings.database.postgres.sslmode=on"}, "sslmode"},
		{[]string{"settings.tracing.sample=2"}, "sample"},
		{[]string{"settings.tracing.endpoint=collector:4318"}, "endpoint"},
		// The chart sets these.
		{[]string{"settings.cluster.instance=a"}, "instance"},
		{[]string{"settings.http.listen=:80"}, "http"},
		{[]string{"settings.shutdown.grace=1m"}, "shutdown"},
		// The templates check these, because the schema cannot.
		{[]string{"existingSecret=mine"}, "exclude each other"},
		{[]string{"replicas=65"}, "65 instances would share 64 partitions"},
		{[]string{"settings.cluster.partitions=2"}, "3 instances would share 2 partitions"},
		{[]string{"autoscaling.by=cpu", "autoscaling.minReplicas=11"}, "minReplicas"},
		{[]string{"autoscaling.by=queue"}, "urlSecret.name is required"},
	} {
		t.Run(strings.Join(test.set, ","), func(t *testing.T) {
			for _, helm := range []string{"helm", "helm3"} {
				args := []string{"template", "ident", chart, "--set", key}
				for _, set := range test.set {
					args = append(args, "--set", set)
				}
				_, err := run(exec.Command(tool(t, helm), args...))
				if err == nil {
					t.Fatalf("%s accepts it", helm)
				}
				if !strings.Contains(err.Error(), test.says) {
					t.Errorf("%s does not say %q: %v", helm, test.says, err)
				}
			}
		})
	}
}

func TestKeyIsRequired(t *testing.T) {
	_, err := run(exec.Command(tool(t, "helm"), "template", "ident", chart))
	if err == nil || !strings.Contains(err.Error(), "settings.database.encryption_key is required") {
		t.Errorf("without a key: %v", err)
	}
}

// A pod must get more time than the drain may take.
func TestGracePeriod(t *testing.T) {
	out := mustRun(t, exec.Command(tool(t, "helm"), "template", "ident", chart, "--set", key,
		"--set", "drainSeconds=100", "--set", "preStopSeconds=7"))
	pod := podOf(t, objects(t, out))
	if got := pod.TerminationGracePeriodSeconds; got <= 107 {
		t.Errorf("the pod is killed after %d s", got)
	}
	ident := pod.Containers[0]
	if got := ident.Lifecycle.PreStop.Sleep.Seconds; got != 7 {
		t.Errorf("the pause is %d s", got)
	}
	if got := ident.environ("ident-0")["GLOTPOD_IDENT__SHUTDOWN__GRACE"]; got != "100s" {
		t.Errorf("the drain may take %q", got)
	}
}

// A pod must be replaced when its settings change, and only then.
func TestSettingsChecksum(t *testing.T) {
	checksum := func(set string) string {
		out := mustRun(t, exec.Command(tool(t, "helm"), "template", "ident", chart, "--set", key, "--set", set))
		return templateOf(t, objects(t, out)).Metadata.Annotations["checksum/settings"]
	}
	first, same, other := checksum("replicas=3"), checksum("replicas=5"), checksum("settings.log.level=debug")
	if first == "" || first != same || first == other {
		t.Errorf("checksums %q, %q, %q", first, same, other)
	}
}

// The pod of helm test examines the installation with the settings of the instances, and is none of
// them for the Service.
func TestDoctor(t *testing.T) {
	out := mustRun(t, exec.Command(tool(t, "helm"), "template", "ident", chart, "--set", key, "--set", "replicas=5"))
	all := objects(t, out)
	var doctor struct {
		Metadata struct{ Labels, Annotations map[string]string }
		Spec     pod
	}
	var service struct {
		Spec struct{ Selector map[string]string }
	}
	decode(t, all["Pod/ident-glotpod-ident-doctor"], &doctor)
	decode(t, all["Service/ident-glotpod-ident"], &service)
	if got := doctor.Metadata.Annotations["helm.sh/hook"]; got != "test" {
		t.Errorf("the hook is %q", got)
	}
	ident, examining := podOf(t, all).Containers[0], doctor.Spec.Containers[0]
	if got := strings.Join(examining.Args, " "); got != "doctor --instances 5" {
		t.Errorf("the arguments are %s", got)
	}
	if !maps.Equal(ident.environ("one"), examining.environ("one")) || ident.Image != examining.Image {
		t.Error("the image or the environment is another one than that of the instances")
	}
	selected := len(service.Spec.Selector) > 0
	for key, value := range service.Spec.Selector {
		selected = selected && doctor.Metadata.Labels[key] == value
	}
	if selected {
		t.Errorf("the Service leads to a pod with the labels %v", doctor.Metadata.Labels)
	}
	out = mustRun(t, exec.Command(tool(t, "helm"), "template", "ident", chart, "--set", key, "--set", "networkPolicy.enabled=true"))
	var policy struct {
		Spec struct {
			PodSelector struct {
				MatchLabels      map[string]string
				MatchExpressions []struct {
					Key    string
					Values []string
				}
			}
		}
	}
	decode(t, objects(t, out)["NetworkPolicy/ident-glotpod-ident"], &policy)
	for key, value := range policy.Spec.PodSelector.MatchLabels {
		if doctor.Metadata.Labels[key] != value {
			t.Errorf("the NetworkPolicy wants %s=%s", key, value)
		}
	}
	for _, e := range policy.Spec.PodSelector.MatchExpressions {
		for _, label := range []string{doctor.Metadata.Labels[e.Key], service.Spec.Selector[e.Key]} {
			if !slices.Contains(e.Values, label) {
				t.Errorf("the NetworkPolicy does not hold for %s=%s", e.Key, label)
			}
		}
	}
}

func TestNetworkPolicyPorts(t *testing.T) {
	out := mustRun(t, exec.Command(tool(t, "helm"), "template", "ident", chart, "--set", key,
		"--set", "settings.amqp.port=5673", "--set", `settings.amqp.host=a\, b:5674\,[::1]:5675`,
		"--set", "settings.database.postgres.port=6432", "--set", `settings.database.postgres.host=::1\,a:6433`,
		"--set", "settings.tracing.endpoint=http://[::1]:4318/x", "--set", "networkPolicy.ports={5432}",
		"--set", "env[0].name=OTEL_EXPORTER_OTLP_METRICS_ENDPOINT,env[0].value=https://collector/x", "--set", "env[1].name=OTEL_SERVICE_NAME,env[1].value=http://name:1",
		"--set", "env[2].name=OTEL_EXPORTER_OTLP_ENDPOINT,env[2].value=http://$(HOST):4319"))
	var policy struct {
		Spec struct {
			Egress []struct{ Ports []struct{ Port int } }
		}
	}
	decode(t, objects(t, out)["NetworkPolicy/ident-glotpod-ident"], &policy)
	var ports []int
	for _, rule := range policy.Spec.Egress {
		for _, p := range rule.Ports {
			ports = append(ports, p.Port)
		}
	}
	want := []int{53, 53, 5432, 5673, 5674, 5675, 6432, 6433, 4318, 443, 4319}
	if len(ports) != len(want) {
		t.Fatalf("ports %v, want %v", ports, want)
	}
	for i := range want {
		if ports[i] != want[i] {
			t.Errorf("ports %v, want %v", ports, want)
		}
	}
}
