package operate

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// TestRepartitionCommand: the command says what it would do, does it, and is refused with a reason.
func TestRepartitionCommand(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	environ := s.Settings.Environ()
	repartition := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		status, stdout, stderr := harness.Run(t, environ, append([]string{"repartition"}, args...)...)
		if status != want {
			t.Fatalf("repartition %q ended with %d, want %d: %s%s", args, status, want, stdout, stderr)
		}
		return stdout, stderr
	}
	refused := func(status int, why string, args ...string) {
		t.Helper()
		if _, stderr := repartition(status, args...); !strings.Contains(stderr, why) {
			t.Errorf("repartition %q: %s", args, stderr)
		}
	}
	v := s.Serve(t)
	c := s.NewCaller(t)
	id := c.Create(t, harness.NewUser("github"))["id"]

	refused(2, "1 to 1024", "--partitions", "1025")
	refused(2, "quorum or classic", "--queue-type", "stream")
	refused(1, "already", "--partitions", "4", "--queue-type", "quorum")
	refused(1, "no repartition is under way", "--abort")
	if out, _ := repartition(0, "--partitions", "6", "--dry-run"); !strings.Contains(out, "/0004 to glotpod.rpc/ident/0009") || !strings.Contains(out, "Nothing was changed") {
		t.Errorf("a dry run prints %s", out)
	}
	if n := s.Count(t, "SELECT count(*) FROM ident_repartition"); n != 0 {
		t.Error("a dry run has begun a repartition")
	}

	out, _ := repartition(0, "--partitions", "6", "--queue-type", "classic", "--json")
	var done struct {
		Phase string
		To    struct {
			First, Partitions int
			Queue             string `json:"queue_type"`
		}
	}
	if err := json.Unmarshal([]byte(out), &done); err != nil || done.Phase != "done" || done.To.First != 4 || done.To.Partitions != 6 || done.To.Queue != "classic" {
		t.Errorf("it prints %s: %v", out, err)
	}
	v.AwaitReady(t)
	c.Get(t, id)
	harness.Eventually(t, "the status shows the new queues", func() bool {
		status, out, _ := harness.Run(t, environ, "status", "--json")
		return status == 0 && strings.Contains(out, "glotpod.rpc/ident/0009") && !strings.Contains(out, "glotpod.rpc/ident/0003")
	})

	s.Exec(t, "INSERT INTO ident_held_back (partition, user_id, position, since) VALUES (9, 1, 1, current_date)")
	refused(1, "held back", "--partitions", "7")
	s.Exec(t, "DELETE FROM ident_held_back")
	s.Exec(t, `INSERT INTO ident_repartition (number, phase, from_first, from_partitions, from_queue_type, to_first, to_partitions, to_queue_type, mover_until)
		VALUES (2, 'clearing', 0, 4, 'quorum', 4, 6, 'classic', 'infinity')`)
	refused(1, "is under way", "--partitions", "7")
	refused(1, "moved to the new queues already", "--abort")
	s.Exec(t, "UPDATE ident_repartition SET phase = 'done' WHERE number = 2")

	// The settings say 4 partitions and quorum queues, which does not count any more.
	another := s.Serve(t)
	if another.Stderr.Count("partitions are those of the last repartition, not of the settings") != 1 {
		t.Error("it does not log that the settings do not count")
	}
	v.Stop(t)
	c.Get(t, id)
}
