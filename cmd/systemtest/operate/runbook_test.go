package operate

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cmd/systemtest/harness"
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

// TestWhoChangedWhat runs the queries of the README as they stand there. They read today's log by
// an index.
func TestWhoChangedWhat(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n### Who changed what\n")
	section, _, _ = strings.Cut(section, "\n### ")
	queries := regexp.MustCompile(`(?m)^    SELECT [^;]+;`).FindAllString(section, -1)
	if len(queries) != 2 {
		t.Fatalf("the README has %d queries", len(queries))
	}
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser("github"))
	patch := c.NewRequest("patch", harness.Patch(u, map[string]any{"op": "replace", "path": "/name", "value": "s3cret new"}))
	c.Ask(t, patch).Result(t)
	s.Exec(t, "UPDATE ident_log SET user_id = 7")
	s.Exec(t, `INSERT INTO ident_log (request, digest, user_id, operation) SELECT gen_random_uuid(), 0, 100 + n, 'patch' FROM generate_series(1, 20000) AS n`)
	s.Exec(t, "ANALYZE ident_log")
	for i, index := range []string{"_user", "_request"} {
		query := strings.ReplaceAll(queries[i], "the message_id", patch.MessageId)
		rows, _ := s.DB.Query(t.Context(), query)
		found, err := pgx.CollectRows(rows, pgx.RowToMap)
		if err != nil || len(found) != 2-i || found[len(found)-1]["operation"] != "patch" {
			t.Errorf("%s: %v, %v", query, found, err)
		}
		rows, _ = s.DB.Query(t.Context(), "EXPLAIN "+query)
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		today := regexp.MustCompile(`using ident_log_\d{8}` + index + ` `)
		if err != nil || !today.MatchString(strings.Join(plan, "\n")) {
			t.Errorf("%s\nhas the plan\n%s\n%v", query, strings.Join(plan, "\n"), err)
		}
	}
}
