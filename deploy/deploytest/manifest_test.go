package deploytest

import (
	"os/exec"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// objects returns the decoded objects of a manifest, by kind and name.
func objects(t *testing.T, manifest string) map[string]any {
	t.Helper()
	all := make(map[string]any)
	for document := range strings.SplitSeq(manifest, "\n---\n") {
		var head struct {
			Kind     string
			Metadata struct{ Name string }
		}
		var whole any
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind == "" {
			continue
		}
		if err := yaml.Unmarshal([]byte(document), &whole); err != nil {
			t.Fatal(err)
		}
		all[head.Kind+"/"+head.Metadata.Name] = whole
	}
	return all
}

// decode converts an object into a struct.
func decode(t *testing.T, object, into any) {
	t.Helper()
	if object == nil {
		t.Fatal("the object is missing")
	}
	text, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

// metadata is that of an object, or of a template of objects.
type metadata struct{ Labels, Annotations map[string]string }

type podTemplate struct {
	Metadata metadata
	Spec     pod
}

type pod struct {
	TerminationGracePeriodSeconds int
	InitContainers, Containers    []container
	SecurityContext               map[string]any
	Volumes                       []struct {
		Name   string
		Secret struct{ DefaultMode int }
	}
}

type container struct {
	Name, Image     string
	Args            []string
	SecurityContext map[string]any
	EnvFrom         []struct{ SecretRef struct{ Name string } }
	VolumeMounts    []struct{ Name, MountPath string }
	Env             []struct {
		Name, Value string
		ValueFrom   *struct{ FieldRef struct{ FieldPath string } }
	}
	Lifecycle struct {
		PreStop struct{ Sleep struct{ Seconds int } }
	}
	StartupProbe, ReadinessProbe, LivenessProbe struct {
		HTTPGet struct{ Path, Port, Scheme string }
	}
}

// environ returns the container's environment in the pod of that name.
func (c container) environ(pod string) map[string]string {
	all := make(map[string]string)
	for _, e := range c.Env {
		all[e.Name] = e.Value
		if e.ValueFrom != nil && e.ValueFrom.FieldRef.FieldPath == "metadata.name" {
			all[e.Name] = pod
		}
	}
	return all
}

func templateOf(t *testing.T, all map[string]any) podTemplate {
	t.Helper()
	var set struct {
		Spec struct{ Template podTemplate }
	}
	decode(t, all["StatefulSet/ident-glotpod-ident"], &set)
	return set.Spec.Template
}

// rendered returns the objects of the chart with a key, and with some values.
func rendered(t *testing.T, set ...string) map[string]any {
	t.Helper()
	args := []string{"template", "ident", chart, "--set", key}
	for _, set := range set {
		args = append(args, "--set-json", set)
	}
	return objects(t, mustRun(t, exec.Command(tool(t, "helm"), args...)))
}

func podOf(t *testing.T, all map[string]any) pod {
	t.Helper()
	return templateOf(t, all).Spec
}
