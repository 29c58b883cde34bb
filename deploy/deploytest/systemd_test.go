package deploytest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// systemd must accept the units without a warning, and rate them as secure. (systemd checks
// that the program exists, so /bin/true replaces it.)
func TestUnits(t *testing.T) {
	units, err := filepath.Glob("../systemd/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	dir := t.TempDir()
	for _, unit := range units {
		content, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(content), "/usr/local/bin/glotpod-ident", "/bin/true")
		copied := filepath.Join(dir, filepath.Base(unit))
		if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", copied).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
		for line := range strings.Lines(string(out)) {
			if !olderSystemd.MatchString(line) {
				t.Errorf("%s: %s", unit, line)
			}
		}
		// The exposure level is from 0 (restricted) to 10 (unrestricted); 15 means 1.5.
		out, err = exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=15", copied).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}

// olderSystemd matches the warning of systemd before 254 about RestartSteps.
var olderSystemd = regexp.MustCompile(`Unknown key( name)? '(RestartSteps|RestartMaxDelaySec)'`)
