package deploytest

import (
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
	c.namespace(t, "dry")
	crds, err := os.ReadFile("testdata/crds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.apply(string(crds)); err != nil {
		t.Fatal(err)
	}
	mustRun(t, c.kubectl("wait", "--for=condition=Established", "--timeout="+timeout.String(), "crd", "--all"))

	dryRun := func(manifest string) error {
		return c.apply(manifest, "--namespace=dry", "--dry-run=server", "--validate=strict", "--warnings-as-errors")
	}
	for _, file := range values(t) {
		t.Run(file, func(t *testing.T) {
			manifest := mustRun(t, c.helm("template", "ident", chart, "--values", file, "--namespace=dry"))
			// A dry run creates no service account, and a pod needs one that exists.
			for name, object := range objects(t, manifest) {
				if strings.HasPrefix(name, "ServiceAccount/") {
					account, err := yaml.Marshal(object)
					if err != nil {
						t.Fatal(err)
					}
					if err := c.apply(string(account), "--namespace=dry"); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := dryRun(manifest); err != nil {
				t.Error(err)
			}
			// Each of the three checks works: the API server refuses a broken manifest.
			for _, spoil := range []struct{ old, new, says string }{
				{"podManagementPolicy:", "podManagementPolice:", "podManagementPolice"},
				{"podManagementPolicy: Parallel", "podManagementPolicy: AllAtOnce", "AllAtOnce"},
				{"allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "allowPrivilegeEscalation"},
			} {
				spoilt := strings.ReplaceAll(manifest, spoil.old, spoil.new)
				if err := dryRun(spoilt); err == nil || !strings.Contains(err.Error(), spoil.says) {
					t.Errorf("with %q: %v", spoil.new, err)
				}
			}
		})
	}
}
