package operate

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/testservers"
)

// shortBench is enough to see what bench does. Nobody looks at how fast.
var shortBench = []string{"--duration", "500ms", "--in-flight", "1,8"}

// savedBench is what these tests read of what bench saves.
type savedBench struct {
	Cells []struct {
		Case     string
		InFlight int `json:"in_flight"`
		Sides    []struct {
			Name     string
			Requests int
			CPU      map[string]float64
		}
		Database map[string]float64
	}
}

func TestBenchMeasuresAClusterThatItStartsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	folder, file := devFolder(t), filepath.Join(t.TempDir(), "saved.json")
	p := harness.LaunchBench(t, append(harness.Settings{}.Environ(), "TMPDIR="+folder),
		"--local", "1", "--partitions", "4", "--save", file, "--duration", "1s",
		"--cases", "get-direct,patch,patch-direct")
	if status := p.AwaitExit(t, devPatience); status != 0 {
		t.Fatalf("status %d: %s", status, p.Stderr.String())
	}
	leavesNothing(t, folder)

	table := p.Stdout.String()
	for _, want := range []string{"CASE ", "  echo direct ", "  echo spread ", "ROUND TRIPS", "  commit ", "  row lock ", "WAL BYTES", "TARGET OF", "p50 <= 1.15 x echo direct"} {
		if !strings.Contains(table, want) {
			t.Errorf("the tables have no %q:\n%s", want, table)
		}
	}
	var cells []string
	for _, c := range readSaved(t, file).Cells {
		cells = append(cells, c.Case)
		for _, s := range c.Sides {
			if s.Requests == 0 {
				t.Errorf("%s, %d in flight: nothing was asked of %s", c.Case, c.InFlight, s.Name)
			}
		}
		if c.Database == nil {
			t.Errorf("%s, %d in flight: nothing is known of the database", c.Case, c.InFlight)
		}
		if trips, known := c.Database["round_trips_per_request"]; !known || strings.HasPrefix(c.Case, "patch") && trips == 0 {
			t.Errorf("%s, %d in flight: %v round trips (known: %t)", c.Case, c.InFlight, trips, known)
		}
	}
	const want = "get-direct get-direct patch patch patch-direct patch-direct"
	if got := strings.Join(cells, " "); got != want {
		t.Errorf("measured: %s", got)
	}
	status, out, stderr := harness.LaunchBench(t, harness.Settings{}.Environ(), "compare", file, file).AwaitOutput(t)
	if status != 0 || strings.Count(out, "same within noise") != 6 {
		t.Errorf("compared with itself: status %d, %s%s", status, out, stderr)
	}
}

func TestBenchLeavesNothingWhenInterrupted(t *testing.T) {
	t.Parallel()
	folder := devFolder(t)
	p := harness.LaunchBench(t, append(harness.Settings{}.Environ(), "TMPDIR="+folder), "--local", "1", "--partitions", "4", "--duration", "1h")
	measures := func() bool {
		for _, pid := range processesOf(t, folder) {
			line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
			if strings.Contains(string(line), "bench\x00echo") {
				return true
			}
		}
		return false
	}
	for deadline := time.Now().Add(devPatience); !measures(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain: the echo is started")
		}
	}
	p.Cmd.Process.Signal(os.Interrupt)
	if status := p.AwaitExit(t, devPatience); status != 1 || !strings.Contains(p.Stderr.String(), "interrupted") {
		t.Errorf("status %d, %s", status, p.Stderr.String())
	}
	leavesNothing(t, folder)
}

func leavesNothing(t *testing.T, folder string) {
	t.Helper()
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) > 0 {
		t.Errorf("%v are left in the temporary folder, %v", left, err)
	}
}

func TestBenchMeasuresARunningClusterAndDeletesItsUsers(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	file := filepath.Join(t.TempDir(), "saved.json")
	status, stdout, stderr := harness.LaunchBench(t, s.Settings.Environ(),
		append([]string{"--cases", "get,get-email,create,mix", "--json", "--save", file}, shortBench...)...).AwaitOutput(t)
	if status != 0 || stderr != "" {
		t.Fatalf("status %d: %s", status, stderr)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != stdout {
		t.Errorf("what is saved is not what --json prints: %v", err)
	}
	cells := readSaved(t, file).Cells
	if len(cells) != 8 || cells[0].Database == nil || cells[0].Sides[0].CPU != nil {
		t.Errorf("measured: %s", stdout)
	}
	if n := s.Count(t, "SELECT count(*) FROM users"); n != 0 {
		t.Errorf("%d users are left", n)
	}
	if n := s.Count(t, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'glotpod_bench%'"); n != 0 {
		t.Errorf("%d schemas are left", n)
	}
	for _, kind := range []string{"queues", "exchanges"} {
		var found []struct{ Name string }
		path := "/api/" + kind + "/" + url.PathEscape(s.Settings["amqp.vhost"])
		if err := testservers.RabbitMQ(t).Management.Call(t.Context(), http.MethodGet, path+"?disable_stats=true", nil, &found); err != nil {
			t.Fatal(err)
		}
		for _, q := range found {
			if strings.Contains(q.Name, "bench") {
				t.Errorf("of the %s, %s is left", kind, q.Name)
			}
		}
	}

	// Without a database within reach there is less to tell.
	brokerOnly := harness.Settings{}
	for key, value := range s.Settings {
		if strings.HasPrefix(key, "amqp.") {
			brokerOnly[key] = value
		}
	}
	status, stdout, stderr = harness.LaunchBench(t, brokerOnly.Environ(), append([]string{"--cases", "get", "--keep"}, shortBench...)...).AwaitOutput(t)
	if status != 0 || stderr != "" || strings.Contains(stdout, "WAL") || !strings.Contains(stdout, "p50 <= 1.5 x echo") {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
	if n := s.Count(t, "SELECT count(*) FROM users"); n != 1000 {
		t.Errorf("%d users were kept, not 1000", n)
	}
}

func TestBenchFailsWhenARequestFails(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	status, stdout, stderr := harness.LaunchBench(t, s.Settings.Environ(), "--cases", "get").AwaitOutput(t)
	if status != 1 || stdout != "" || !strings.Contains(stderr, "no identity service") {
		t.Errorf("without a service: status %d, %s%s", status, stdout, stderr)
	}
}

func readSaved(t *testing.T, file string) (s savedBench) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}
