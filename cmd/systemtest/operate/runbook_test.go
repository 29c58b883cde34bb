package operate

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

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
	if has("alert", alertName, read("../../../deploy/chart/files/alerts.yaml"), "\n### ", "\n") == 0 {
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

// documentedQueries returns the SQL statements that stand on lines of their own in a document,
// below a heading.
func documentedQueries(t *testing.T, name, heading string) []string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), heading)
	section = regexp.MustCompile(`(?s)DO \$\$.*?\$\$;`).ReplaceAllString(section, "") // TestRunbook of the store runs it
	return regexp.MustCompile(`(?m)^ +(?:SELECT|UPDATE|DELETE) [^;]+;`).FindAllString(section, -1)
}

// TestQueries runs the SQL of the documents as it stands there. It reads the log by an index,
// also that of today.
func TestQueries(t *testing.T) {
	t.Parallel()
	data := documentedQueries(t, "../../../store/DATA.md", "\n## Who changed what\n")
	runbook := documentedQueries(t, "../../../deploy/guide/runbook.md", "\n")
	if len(data) != 2 || len(runbook) != 7 {
		t.Fatalf("the documents have %d and %d queries", len(data), len(runbook))
	}
	s := harness.NewSite(t)
	v := s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser("github"))
	patch := c.NewRequest("patch", harness.Patch(u, map[string]any{"op": "replace", "path": "/name", "value": "s3cret new"}))
	c.Ask(t, patch).Result(t)
	v.Stop(t)
	s.Exec(t, "UPDATE ident_log SET user_id = 7")
	s.Exec(t, `INSERT INTO ident_log (at, request, digest, user_id, sequence, position, partition, operation)
		SELECT now() - make_interval(days => d), gen_random_uuid(), 0, 100 + n, 1, (p.epoch << 40) - d * 1000000 + 1000 + n, p.partition, 'delete'
		FROM generate_series(0, 1) AS d, generate_series(1, 20000) AS n JOIN ident_partitions AS p ON p.partition = n % 4`)
	s.Exec(t, "UPDATE ident_partitions SET notified = (epoch << 40) + 1000 + 19980")
	s.Exec(t, `INSERT INTO ident_held_back (partition, user_id, position, since)
		SELECT partition, user_id, min(position), current_date - 2 FROM ident_log WHERE user_id = 1100 GROUP BY partition, user_id`)
	unnotified := s.Unnotified(t)
	if unnotified != 20+2 {
		t.Fatalf("%d changes were not notified", unnotified)
	}

	for _, analyzed := range []bool{false, true} {
		if analyzed {
			s.Exec(t, "ANALYZE")
		}
		for i, index := range []string{"_user", "_request"} {
			found := runQuery(t, s, strings.ReplaceAll(data[i], "the message_id", patch.MessageId), index)
			if len(found) != 2-i || found[len(found)-1]["operation"] != "patch" {
				t.Errorf("%s: %v", data[i], found)
			}
		}
		for _, query := range runbook {
			index := ""
			if strings.Contains(query, "ident_log") {
				index = "_position"
			}
			found := runQuery(t, s, query, index)
			if !strings.Contains(query, "ident_held_back") {
				continue
			}
			var sum int64
			for _, row := range found {
				sum += row["count"].(int64)
			}
			if sum != int64(unnotified) {
				t.Errorf("%s: %v", query, found)
			}
		}
	}
}

// runQuery runs a query, and rolls it back. If an index is given, the plan must read today's log
// by it. No plan may read all of that log.
func runQuery(t *testing.T, s *harness.Site, query, index string) (found []map[string]any) {
	t.Helper()
	s.Exec(t, "BEGIN")
	defer s.Exec(t, "ROLLBACK")
	rows, _ := s.DB.Query(t.Context(), query)
	found, err := pgx.CollectRows(rows, pgx.RowToMap)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	rows, _ = s.DB.Query(t.Context(), "EXPLAIN "+query)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	text := strings.Join(plan, "\n")
	today := "ident_log_" + time.Now().UTC().Format("20060102")
	if strings.Contains(text, "Seq Scan on "+today) || index != "" && !strings.Contains(text, today+index+" ") {
		t.Errorf("%s\nhas the plan\n%s", query, text)
	}
	return found
}
