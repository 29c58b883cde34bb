package deploytest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestAPIServerAcceptsChart applies the chart's objects in a dry run. The API server must
// know all fields, accept all values and give no warning, and the pods must be as
// restricted as the namespace demands.
func TestAPIServerAcceptsChart(t *testing.T) {
	c := kubernetes(t)
	crds, err := os.ReadFile("testdata/crds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.apply(string(crds)); err != nil {
		t.Fatal(err)
	}
	mustRun(t, c.kubectl("wait", "--for=condition=Established", "--timeout="+timeout.String(), "crd", "--all"))

	t.Run("values", func(t *testing.T) { testValues(t, c) })
	t.Run("users", func(t *testing.T) { testUsers(t, c) })
	t.Run("replicas", func(t *testing.T) { testReplicas(t, c) })
}

// testValues applies the chart with all examples of values.
func testValues(t *testing.T, c *cluster) {
	c.namespace(t, "dry", restricted)
	for _, file := range values(t) {
		t.Run(file, func(t *testing.T) {
			manifest := c.template(t, "dry", "--values", file)
			if err := c.dryRun("dry", manifest); err != nil {
				t.Error(err)
			}
			// Each of the three checks works: the API server refuses a broken manifest.
			for _, spoil := range []struct{ old, new, says string }{
				{"podManagementPolicy:", "podManagementPolice:", "podManagementPolice"},
				{"podManagementPolicy: Parallel", "podManagementPolicy: AllAtOnce", "AllAtOnce"},
				{"allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "allowPrivilegeEscalation"},
			} {
				spoilt := strings.ReplaceAll(manifest, spoil.old, spoil.new)
				if err := c.dryRun("dry", spoilt); err == nil || !strings.Contains(err.Error(), spoil.says) {
					t.Errorf("with %q: %v", spoil.new, err)
				}
			}
		})
	}
}

// testUsers applies the chart where the platform assigns users, as OpenShift does.
func testUsers(t *testing.T, c *cluster) {
	const refusal = "the platform assigns the users"
	policy, err := os.ReadFile("testdata/assigned-users.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.apply(string(policy)); err != nil {
		t.Fatal(err)
	}
	const assigned = "users: assigned"
	c.namespace(t, "assigned", assigned)
	c.namespace(t, "assigned-restricted", assigned, restricted)
	usual := c.template(t, "assigned", "--set", key)
	err = await(func() error { // the API server reads policies now and then
		if err := c.dryRun("assigned", usual); err == nil || !strings.Contains(err.Error(), refusal) {
			return fmt.Errorf("with the usual values: %w", errors.Join(err, errors.New("the policy does not refuse them")))
		}
		return nil
	}, c.processes...)
	if err != nil {
		t.Fatal(err)
	}
	noUsers := []string{"--values", chart + "/ci/openshift-values.yaml"}
	noContexts := []string{"--set", key, "--set", "podSecurityContext=null", "--set", "securityContext=null"}
	for name, test := range map[string]struct {
		namespace string
		values    []string
		refused   string // part of the error, or ""
	}{
		"usual":                 {"assigned-restricted", []string{"--set", key}, refusal},
		"container_user":        {"assigned", append(noUsers, "--set", "securityContext.runAsUser=65532"), refusal},
		"no_users":              {"assigned", noUsers, ""},
		"no_users_restricted":   {"assigned-restricted", noUsers, ""},
		"no_context":            {"assigned", noContexts, ""},
		"no_context_restricted": {"assigned-restricted", noContexts, "runAsNonRoot"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.dryRun(test.namespace, c.template(t, test.namespace, test.values...))
			if test.refused == "" && err != nil || test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)) {
				t.Errorf("%v, want %q", err, test.refused)
			}
		})
	}
}

// testReplicas applies what `helm template` prints, as Argo CD does, while something else
// scales the StatefulSet.
func testReplicas(t *testing.T, c *cluster) {
	const namespace, name = "applied", "statefulset/ident-glotpod-ident"
	c.namespace(t, namespace, restricted)
	const set = "--show-only=templates/statefulset.yaml"
	usual := c.template(t, namespace, set, "--set", key)
	left := c.template(t, namespace, set, "--set", key, "--set", "replicas=null")
	for _, step := range []struct {
		says     string
		do       func() error
		replicas string
	}{
		{"the usual values", func() error { return c.apply(usual, "--namespace", namespace) }, "3"},
		{"another scales", func() error {
			_, err := run(c.kubectl("scale", name, "--replicas=4", "--namespace", namespace))
			return err
		}, "4"},
		{"the usual values again", func() error { return c.apply(usual, "--namespace", namespace) }, "3"},
		{"replicas is no longer applied", func() error { // as edit-last-applied does
			cmd := c.kubectl("apply", "set-last-applied", "--filename=-", "--namespace", namespace)
			cmd.Stdin = strings.NewReader(left)
			_, err := run(cmd)
			return err
		}, "3"},
		{"without replicas", func() error { return c.apply(left, "--namespace", namespace) }, "3"},
		{"another scales again", func() error {
			_, err := run(c.kubectl("scale", name, "--replicas=5", "--namespace", namespace))
			return err
		}, "5"},
		{"without replicas again", func() error {
			return c.apply(strings.ReplaceAll(left, "minReadySeconds: 5", "minReadySeconds: 6"), "--namespace", namespace)
		}, "5"},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.says, err)
		}
		if got := mustRun(t, c.kubectl("get", name, "--namespace", namespace, "--output=jsonpath={.spec.replicas}")); got != step.replicas {
			t.Errorf("%s: there are %s replicas, want %s", step.says, got, step.replicas)
		}
	}
}

// template renders the chart for a namespace. It creates the service account there, because
// a pod needs one that exists, and a dry run creates none.
func (c *cluster) template(t *testing.T, namespace string, args ...string) string {
	t.Helper()
	manifest := mustRun(t, c.helm(append([]string{"template", "ident", chart, "--namespace", namespace}, args...)...))
	for name, object := range objects(t, manifest) {
		if strings.HasPrefix(name, "ServiceAccount/") {
			account, err := yaml.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.apply(string(account), "--namespace", namespace); err != nil {
				t.Fatal(err)
			}
		}
	}
	return manifest
}

// dryRun asks the API server whether it accepts a manifest without a warning.
func (c *cluster) dryRun(namespace, manifest string) error {
	return c.apply(manifest, "--namespace", namespace, "--dry-run=server", "--validate=strict", "--warnings-as-errors")
}
