package deploytest

import (
	"os"
	"strings"
	"testing"
)

// The API server takes, as a dry run, whatever the chart makes: no field that it
// does not know, no value that it refuses, nothing that it warns of, and pods as
// restricted as the namespace wants them.
func TestAPIServerTakesWhatTheChartMakes(t *testing.T) {
	c := kubernetes(t)
	c.namespace(t, "dry")
	crds, err := os.ReadFile("testdata/crds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.apply(string(crds)); err != nil {
		t.Fatal(err)
	}
	mustRun(t, c.kubectl("wait", "--for=condition=Established", "--timeout="+patience.String(), "crd", "--all"))

	dryRun := func(manifest string) error {
		return c.apply(manifest, "--namespace=dry", "--dry-run=server", "--validate=strict", "--warnings-as-errors")
	}
	for _, file := range values(t) {
		t.Run(file, func(t *testing.T) {
			manifest := mustRun(t, c.helm("template", "ident", chart, "--values", file, "--namespace=dry"))
			if err := dryRun(manifest); err != nil {
				t.Error(err)
			}
			// Each of the three checks has something to check: what is spoilt is refused.
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
