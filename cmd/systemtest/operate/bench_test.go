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

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/testservers"
)

// shortBench are flags for a run that shows what bench does, not how fast the service
// is.
var shortBench = []string{"--duration", "300ms", "--in-flight", "1,8"}

// savedBench is what these tests read of a file that bench saves.
type savedBench struct {
	Cells []struct {
		Case      string
		InFlight  int `json:"in_flight"`
		Instances int
		Sides     []struct {
			Name     string
			Requests int
			Relayed  float64 `json:"requests_per_relayed_message"`
			CPU      map[string]float64
			Database map[string]float64
		}
	}
}

func TestBench(t *testing.T) {
	t.Parallel()
	t.Run("local_cluster", testBenchOfLocalCluster)
	t.Run("running_cluster", testBenchOfRunningCluster)
	t.Run("interrupt", testInterruptedBench)
	t.Run("no_service", func(t *testing.T) {
		t.Parallel()
		s := harness.NewSite(t)
		status, stdout, stderr := harness.LaunchBench(t, s.Settings.Environ(), "--cases", "get").AwaitOutput(t)
		if status != 1 || stdout != "" || !strings.Contains(stderr, "no identity service") {
			t.Errorf("status %d, %s%s", status, stdout, stderr)
		}
	})
}

// With --local, bench starts a cluster for each number of instances, measures them in turn, and leaves
// nothing behind.
func testBenchOfLocalCluster(t *testing.T) {
	t.Parallel()
	folder, file := devFolder(t), filepath.Join(t.TempDir(), "saved.json")
	cases := []string{"get-direct", "patch"}
	p := harness.LaunchBench(t, append(harness.Settings{}.Environ(), "TMPDIR="+folder), "--local", "1,2",
		"--partitions", "4", "--save", file, "--duration", "200ms", "--cases", strings.Join(cases, ","))
	if status := p.AwaitExit(t, 3*devTimeout); status != 0 {
		t.Fatalf("status %d: %s", status, p.Stderr.String())
	}
	checkNothingLeft(t, folder)

	table := p.Stdout.String()
	for _, want := range []string{"CASE ", "  echo direct ", "  echo spread ", "ROUND TRIPS", "  plain ", "  1 instance ", "patch, 2 instances ", "WAL BYTES", "TARGET OF", "p50 <= 1.5 x echo", "p50 <= 1.3 x plain"} {
		if !strings.Contains(table, want) {
			t.Errorf("the tables do not contain %q:\n%s", want, table)
		}
	}
	saved := readSaved(t, file)
	plainCPU, cellsPerCase := 0.0, 4 // each with 1 and with 128 in flight, with 1 and with 2 instances
	for i, c := range saved.Cells {
		if i/cellsPerCase >= len(cases) || c.Case != cases[i/cellsPerCase] || c.Instances != 1+i%2 {
			t.Errorf("cell %d is of %s with %d instances", i, c.Case, c.Instances)
		}
		if relayed := c.Sides[0].Relayed > 0; relayed != (c.Case == "patch" && c.Instances == 2) {
			t.Errorf("%s, %d in flight, %d instances: requests were relayed: %t", c.Case, c.InFlight, c.Instances, relayed)
		}
		for _, s := range c.Sides {
			if s.Requests == 0 {
				t.Errorf("%s, %d in flight: no request to %s", c.Case, c.InFlight, s.Name)
			}
		}
		database := c.Sides[0].Database
		if trips, known := database["round_trips_per_request"]; !known || strings.HasPrefix(c.Case, "patch") && trips == 0 {
			t.Errorf("%s, %d in flight: %v round trips (known: %t)", c.Case, c.InFlight, trips, known)
		}
		plain := c.Sides[len(c.Sides)-1]
		if !strings.HasPrefix(c.Case, "patch") {
			continue
		}
		if plain.Name != "plain" || plain.CPU == nil {
			t.Errorf("%s, %d in flight: no CPU time of the plain service, %+v", c.Case, c.InFlight, plain)
		}
		plainCPU += plain.CPU["server_seconds_per_1000"] + plain.CPU["database_seconds_per_1000"]
		// A transaction is BEGIN, SELECT, UPDATE and COMMIT. What the instances do without requests
		// counts too, and is much beside the few commits that a slow machine makes with 1 in flight. So
		// is a transaction of which a part is counted.
		if n := plain.Database["statements_per_commit"]; n < 3 || c.InFlight > 1 && (n < 3.9 || n > 8) {
			t.Errorf("%s, %d in flight: %v statements per commit of the plain service", c.Case, c.InFlight, n)
		}
	}
	if plainCPU == 0 {
		t.Error("the plain service took no CPU time")
	}
	if len(saved.Cells) != cellsPerCase*len(cases) {
		t.Errorf("%d cells for the cases %v", len(saved.Cells), cases)
	}
	status, out, stderr := harness.LaunchBench(t, harness.Settings{}.Environ(), "compare", file, file).AwaitOutput(t)
	if status != 0 || strings.Count(out, "same within noise") != cellsPerCase*len(cases) {
		t.Errorf("compared with itself: status %d, %s%s", status, out, stderr)
	}
}

// An interrupted bench stops the servers that it has started.
func testInterruptedBench(t *testing.T) {
	t.Parallel()
	folder := devFolder(t)
	p := harness.LaunchBench(t, append(harness.Settings{}.Environ(), "TMPDIR="+folder), "--local", "1", "--partitions", "4", "--duration", "1h")
	echoRuns := func() bool {
		for _, pid := range processesOf(t, folder) {
			line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
			if strings.Contains(string(line), "bench\x00echo") {
				return true
			}
		}
		return false
	}
	harness.EventuallyWithin(t, devTimeout, "the echo is started", echoRuns)
	p.Cmd.Process.Signal(os.Interrupt)
	if status := p.AwaitExit(t, devTimeout); status != 1 || !strings.Contains(p.Stderr.String(), "interrupted") {
		t.Errorf("status %d, %s", status, p.Stderr.String())
	}
	checkNothingLeft(t, folder)
}

// checkNothingLeft fails if a process of a folder runs, or the folder is not empty.
func checkNothingLeft(t *testing.T, folder string) {
	t.Helper()
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) > 0 {
		t.Errorf("%v are left in the temporary folder, %v", left, err)
	}
}

// Without --local, bench measures the cluster of its settings, and deletes the users,
// queues and schemas that it has made.
func testBenchOfRunningCluster(t *testing.T) {
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
		t.Errorf("the saved document is not the printed one: %v", err)
	}
	cells := readSaved(t, file).Cells
	if len(cells) != 8 || cells[0].Sides[0].Database == nil || cells[0].Sides[0].CPU != nil {
		t.Errorf("measured: %s", stdout)
	}
	for _, c := range cells {
		if last := c.Sides[len(c.Sides)-1]; c.Case != "get-email" && (last.Name != "plain" || last.Requests == 0) {
			t.Errorf("%s, %d in flight: no request to the plain service", c.Case, c.InFlight)
		}
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
				t.Errorf("%s: %s is left", kind, q.Name)
			}
		}
	}

	// Without settings of the database, bench has less to print.
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
		t.Errorf("%d users are left by --keep, want 1000", n)
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
