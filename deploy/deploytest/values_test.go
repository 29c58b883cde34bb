package deploytest

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// doctorOf returns the pod of helm test.
func doctorOf(t *testing.T, all map[string]any) podTemplate {
	t.Helper()
	var doctor podTemplate
	decode(t, all["Pod/ident-glotpod-ident-doctor"], &doctor)
	return doctor
}

// eachPod calls check for the pods of the instances and for that of helm test.
func eachPod(t *testing.T, all map[string]any, check func(t *testing.T, p pod)) {
	t.Helper()
	t.Run("instances", func(t *testing.T) { check(t, podOf(t, all)) })
	t.Run("doctor", func(t *testing.T) { check(t, doctorOf(t, all).Spec) })
}

// A platform that chooses users by itself, as OpenShift does, needs contexts without them.
func TestSecurityContexts(t *testing.T) {
	for name, test := range map[string]struct {
		set            []string
		pod, container []string // keys of the contexts
		mode           int      // of the files with secrets
	}{
		"usual": {nil, []string{"fsGroup", "runAsGroup", "runAsNonRoot", "runAsUser", "seccompProfile"},
			[]string{"allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"}, 0o440},
		"no_users": {[]string{`podSecurityContext={"runAsUser": null, "runAsGroup": null, "fsGroup": null}`},
			[]string{"runAsNonRoot", "seccompProfile"}, []string{"allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"}, 0o444},
		"none": {[]string{"podSecurityContext=null", "securityContext=null"}, nil, nil, 0o444},
		"more": {[]string{`podSecurityContext={"supplementalGroups": [1]}`, `securityContext={"runAsUser": 7}`},
			[]string{"fsGroup", "runAsGroup", "runAsNonRoot", "runAsUser", "seccompProfile", "supplementalGroups"},
			[]string{"allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem", "runAsUser"}, 0o440},
	} {
		t.Run(name, func(t *testing.T) {
			eachPod(t, rendered(t, append(test.set, `files=[{"name": "tls", "secret": "tls"}]`)...), func(t *testing.T, p pod) {
				if got := slices.Sorted(maps.Keys(p.SecurityContext)); !slices.Equal(got, test.pod) {
					t.Errorf("the pod has %v", got)
				}
				for _, c := range slices.Concat(p.InitContainers, p.Containers) {
					if got := slices.Sorted(maps.Keys(c.SecurityContext)); !slices.Equal(got, test.container) {
						t.Errorf("%s has %v", c.Name, got)
					}
				}
				if len(p.Volumes) != 2 {
					t.Errorf("the volumes are %v", p.Volumes)
				}
				for _, v := range p.Volumes {
					if v.Secret.DefaultMode != test.mode {
						t.Errorf("the files of %s have the mode %o", v.Name, v.Secret.DefaultMode)
					}
				}
			})
		})
	}
}

func TestLabelsAndAnnotations(t *testing.T) {
	values := []string{`commonLabels={"who": "all", "own": "all"}`, `commonAnnotations={"who": "all", "own": "all"}`,
		`serviceMonitor={"enabled": true}`, `prometheusRule={"enabled": true}`, `dashboard={"enabled": true}`,
		`podLabels={"own": "pod"}`, `podAnnotations={"own": "pod"}`}
	of := map[string]string{"StatefulSet/ident-glotpod-ident": "statefulSet", "Service/ident-glotpod-ident": "service",
		"Secret/ident-glotpod-ident-settings": "secret", "ServiceAccount/ident-glotpod-ident": "serviceAccount",
		"ServiceMonitor/ident-glotpod-ident": "serviceMonitor", "PrometheusRule/ident-glotpod-ident": "prometheusRule",
		"ConfigMap/ident-glotpod-ident-dashboard": "dashboard"}
	for _, value := range of {
		values = append(values, value+`.labels={"own": "`+value+`"}`, value+`.annotations={"own": "`+value+`"}`)
	}
	all := maps.Clone(rendered(t, append(values, "autoscaling.by=\"cpu\"")...))
	maps.Copy(all, rendered(t, append(values, "autoscaling.by=\"queue\"", "autoscaling.queue.urlSecret.name=\"url\"")...))
	if len(all) != 13 {
		t.Errorf("there are %d objects: %v", len(all), slices.Sorted(maps.Keys(all)))
	}
	check := func(name string, has metadata, own string) {
		t.Helper()
		for _, have := range []map[string]string{has.Labels, has.Annotations} {
			if have["who"] != "all" || have["own"] != own {
				t.Errorf("%s has %v", name, have)
			}
		}
		if has.Labels["app.kubernetes.io/instance"] != "ident" {
			t.Errorf("%s has the labels %v", name, has.Labels)
		}
	}
	for name, object := range all {
		own, known := of[name]
		if !known {
			own = "all"
		}
		if strings.HasPrefix(name, "Pod/") {
			own = "pod"
		}
		var has struct{ Metadata metadata }
		decode(t, object, &has)
		check(name, has.Metadata, own)
	}
	check("the pod of an instance", templateOf(t, all).Metadata, "pod")
	var selected struct {
		Spec struct {
			Selector struct{ MatchLabels map[string]string }
		}
	}
	decode(t, all["StatefulSet/ident-glotpod-ident"], &selected)
	if got := selected.Spec.Selector.MatchLabels; len(got) != 2 {
		t.Errorf("the selector, which cannot be changed later, is %v", got)
	}
}

func TestExtras(t *testing.T) {
	all := rendered(t, `extraInitContainers=[{"name": "proxy", "image": "proxy"}]`, `extraContainers=[{"name": "logs", "image": "logs"}]`,
		`extraVolumes=[{"name": "run", "emptyDir": {}}]`, `extraVolumeMounts=[{"name": "run", "mountPath": "/run/proxy"}]`,
		`envFrom=[{"secretRef": {"name": "environment"}}]`)
	names := func(containers []container) string {
		var all []string
		for _, c := range containers {
			all = append(all, c.Name)
		}
		return strings.Join(all, " ")
	}
	// A container beside doctor would keep helm test from ending.
	instance, doctor := podOf(t, all), doctorOf(t, all).Spec
	for want, got := range map[string]string{
		"proxy migrate": names(instance.InitContainers), "ident logs": names(instance.Containers),
		"proxy": names(doctor.InitContainers), "doctor": names(doctor.Containers),
	} {
		if got != want {
			t.Errorf("the containers are %s, want %s", got, want)
		}
	}
	eachPod(t, all, func(t *testing.T, p pod) {
		if len(p.Volumes) != 2 || p.Volumes[1].Name != "run" {
			t.Errorf("the volumes are %v", p.Volumes)
		}
		for _, c := range slices.Concat(p.InitContainers, p.Containers) {
			if c.Name == "proxy" || c.Name == "logs" {
				continue
			}
			if len(c.VolumeMounts) != 2 || c.VolumeMounts[1].MountPath != "/run/proxy" {
				t.Errorf("%s mounts %v", c.Name, c.VolumeMounts)
			}
			if len(c.EnvFrom) != 1 || c.EnvFrom[0].SecretRef.Name != "environment" {
				t.Errorf("%s has the environment of %v", c.Name, c.EnvFrom)
			}
		}
	})
}

func TestExtraObjects(t *testing.T) {
	all := rendered(t, `extraObjects=[{"kind": "A", "metadata": {"name": "{{ include \"ident.fullname\" . }}-a"}},
		"kind: B\nmetadata: {name: \"{{ .Release.Name }}-b\"}\n---\nkind: C\nmetadata: {name: c}"]`)
	for _, name := range []string{"A/ident-glotpod-ident-a", "B/ident-b", "C/c"} {
		if all[name] == nil {
			t.Errorf("%s is missing in %v", name, slices.Sorted(maps.Keys(all)))
		}
	}
}

// What the chart leaves out, Argo CD does not set back.
func TestReplicasOfOthers(t *testing.T) {
	for set, args := range map[string]string{
		"replicas=null":          "doctor",
		`autoscaling.by="cpu"`:   "doctor --instances 10",
		"replicas=4":             "doctor --instances 4",
		`podLabels={"a": "b"}`:   "doctor --instances 3",
		`autoscaling.by="queue"`: "doctor --instances 10",
	} {
		t.Run(set, func(t *testing.T) {
			all := rendered(t, set, `autoscaling.queue.urlSecret.name="url"`)
			var found struct{ Spec map[string]any }
			decode(t, all["StatefulSet/ident-glotpod-ident"], &found)
			if _, has := found.Spec["replicas"]; has != (set == "replicas=4" || strings.HasPrefix(set, "pod")) {
				t.Errorf("replicas is %v", found.Spec["replicas"])
			}
			if got := strings.Join(doctorOf(t, all).Spec.Containers[0].Args, " "); got != args {
				t.Errorf("doctor gets %q, want %q", got, args)
			}
		})
	}
}

// The alerts and the dashboard in the cluster are those of the files, unchanged.
func TestMonitoringObjects(t *testing.T) {
	none := rendered(t)
	all := rendered(t, "prometheusRule.enabled=true", "dashboard.enabled=true")
	if len(all) != len(none)+2 {
		t.Errorf("%d objects became %d", len(none), len(all))
	}
	read := func(file string, decode func([]byte, any) error) any {
		t.Helper()
		text, err := os.ReadFile(chart + "/files/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var decoded any
		if err := decode(text, &decoded); err != nil {
			t.Fatal(err)
		}
		return decoded
	}
	same := func(what string, got, want any) {
		t.Helper()
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if string(a) != string(b) || len(a) < 1000 {
			t.Errorf("%s is\n%s\nwant\n%s", what, a, b)
		}
	}
	var rule struct{ Spec any }
	decode(t, all["PrometheusRule/ident-glotpod-ident"], &rule)
	same("the rule", rule.Spec, read("alerts.yaml", func(text []byte, into any) error { return yaml.Unmarshal(text, into) }))
	var dashboard struct {
		Metadata metadata
		Data     map[string]string
	}
	decode(t, all["ConfigMap/ident-glotpod-ident-dashboard"], &dashboard)
	var board any
	if err := json.Unmarshal([]byte(dashboard.Data["glotpod-ident.json"]), &board); err != nil {
		t.Fatal(err)
	}
	same("the dashboard", board, read("dashboard.json", json.Unmarshal))
	if dashboard.Metadata.Labels["grafana_dashboard"] != "1" {
		t.Errorf("Grafana's sidecar does not find a ConfigMap with the labels %v", dashboard.Metadata.Labels)
	}
}

// Probes and Prometheus must ask for what http.listen takes.
func TestScheme(t *testing.T) {
	for name, test := range map[string]struct {
		set    []string
		scheme string
	}{
		"usual":       {nil, "HTTP"},
		"certificate": {[]string{`settings.http={"ssl_cert": "/c", "ssl_key": "/k"}`}, "HTTPS"},
		"told":        {[]string{`portScheme="HTTPS"`}, "HTTPS"},
	} {
		t.Run(name, func(t *testing.T) {
			all := rendered(t, append(test.set, "serviceMonitor.enabled=true", `serviceMonitor.tlsConfig={"serverName": "ident"}`)...)
			ident := podOf(t, all).Containers[0]
			var monitor struct {
				Spec struct {
					Endpoints []struct {
						Scheme    string
						TLSConfig map[string]any
					}
				}
			}
			decode(t, all["ServiceMonitor/ident-glotpod-ident"], &monitor)
			endpoint := monitor.Spec.Endpoints[0]
			want := []string{test.scheme, test.scheme, test.scheme}
			got := []string{ident.StartupProbe.HTTPGet.Scheme, ident.ReadinessProbe.HTTPGet.Scheme, ident.LivenessProbe.HTTPGet.Scheme}
			if !slices.Equal(got, want) || (endpoint.Scheme == "https") != (test.scheme == "HTTPS") || (endpoint.TLSConfig != nil) != (test.scheme == "HTTPS") {
				t.Errorf("the probes use %v, and Prometheus %+v", got, endpoint)
			}
		})
	}
}

// The key may come from the environment.
func TestKeyFromEnvironment(t *testing.T) {
	for set, accepted := range map[string]bool{
		`envFrom=[{"secretRef": {"name": "ident"}}]`:                                                            true,
		`env=[{"name": "GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEY_FILE", "value": "/key"}]`:                       true,
		`env=[{"name": "GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEY", "valueFrom": {"secretKeyRef": {"name": 1}}}]`: true,
		`env=[{"name": "GLOTPOD_IDENT__AMQP__PASSWORD", "value": "secret"}]`:                                    false,
	} {
		if _, err := run(exec.Command(tool(t, "helm"), "template", "ident", chart, "--set-json", set)); (err == nil) != accepted {
			t.Errorf("%s: %v", set, err)
		}
	}
}
