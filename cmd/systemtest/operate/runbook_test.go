package operate

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the runbook has to say something about.
var (
	alertName  = regexp.MustCompile(`(?m)^ *- alert: (\w+)$`)
	errorLine  = regexp.MustCompile(`[lL]og\.Error\("([^"]+)"`)
	exitStatus = regexp.MustCompile(`(?m)^\tStatus\w+ += (\d+)`)
)

func TestRunbook(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	runbook := read("../../../deploy/guide/runbook.md")
	has := func(kind string, pattern *regexp.Regexp, text, before, after string) (n int) {
		for _, match := range pattern.FindAllStringSubmatch(text, -1) {
			n++
			if !strings.Contains(runbook, before+match[1]+after) {
				t.Errorf("the runbook says nothing of the %s %s", kind, match[1])
			}
		}
		return n
	}
	if has("alert", alertName, read("../../../deploy/prometheus/alerts.yaml"), "\n### ", "\n") == 0 {
		t.Error("there are no alerts")
	}
	if has("exit status", exitStatus, read("../../internal/cli/exit_status.go"), "\n| ", " |") == 0 {
		t.Error("there are no exit statuses")
	}
	lines := 0
	err := filepath.WalkDir("../../..", func(name string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			lines += has("log line", errorLine, read(name), "\n### `", "`\n")
		}
		return err
	})
	if err != nil || lines == 0 {
		t.Errorf("%d lines of level error were found: %v", lines, err)
	}
}
