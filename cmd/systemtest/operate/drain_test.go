package operate

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cmd/systemtest/harness"
)

func TestDrain(t *testing.T) {
	t.Parallel()
	t.Run("waits_until_empty", testDrainWaitsUntilEmpty)
	t.Run("failures", testDrainFailures)
	t.Run("two_operators", testDrainTwoOperators)
	t.Run("real_instances", testDrainRealInstances)
}

func testDrainWaitsUntilEmpty(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	a := s.play(t, "web-1", "web-2")
	s.play(t, "web-2", "web-1")
	for p := range 3 {
		a.hold(p, 1)
	}
	a.mu.Lock()
	a.drain = func(report *membership.Report, yes bool) {
		report.State = "draining"
		if !yes {
			report.State = "ready"
		}
	}
	a.mu.Unlock()

	p := harness.Launch(t, s.settings.Environ(), "drain", "web-1")
	for _, left := range []string{"3", "1"} {
		harness.Eventually(t, "it says that "+left+" are left", func() bool {
			return strings.Contains(p.Stdout.String(), "web-1 is draining; partitions left: "+left+"\n")
		})
		a.mu.Lock()
		a.report.Partitions = a.report.Partitions[:len(a.report.Partitions)/2]
		a.mu.Unlock()
	}
	if status := p.AwaitExit(t, harness.Timeout); status != 0 || p.Stderr.String() != "" || !strings.Contains(p.Stdout.String(), "web-1 has no partitions") {
		t.Errorf("drain ended with %d: %s", status, p.Stdout.String()+p.Stderr.String())
	}
	if status, stdout, _ := s.run(t, "drain", "web-1", "--json"); status != 0 ||
		!reflect.DeepEqual(harness.FromJSON(t, []byte(stdout)), harness.Normalize(dict{"instances": list{dict{"instance": "web-1", "state": "draining", "partitions": 0}}})) {
		t.Errorf("drain --json ended with %d: %s", status, stdout)
	}
	if status, stdout, _ := s.run(t, "undrain", "web-1", "--json"); status != 0 || stdout != "{\n  \"instances\": [\n    \"web-1\"\n  ]\n}\n" {
		t.Errorf("undrain --json ended with %d: %s", status, stdout)
	}
	if status, stdout, stderr := s.run(t, "undrain", "web-1"); status != 0 || stderr != "" || stdout == "" {
		t.Errorf("undrain ended with %d: %s", status, stdout+stderr)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.report.State != "ready" {
		t.Errorf("after undrain, it is %s", a.report.State)
	}
}

func testDrainFailures(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	if status, _, stderr := s.run(t, "drain", "web-1"); status != 1 || stderr == "" {
		t.Errorf("where nobody is, drain ended with %d: %s", status, stderr)
	}
	a := s.play(t, "web-1")
	a.hold(0, 1)
	for _, command := range []string{"drain", "undrain"} {
		if status, stdout, stderr := s.run(t, command, "web-2"); status != 1 || stdout != "" || !strings.Contains(stderr, "web-1") {
			t.Errorf("where only others are, %s ended with %d: %s", command, status, stdout+stderr)
		}
		for _, args := range [][]string{{}, {"web-1", "web-1"}, {"web 1"}, {"--nope", "web-1"}} {
			if status, stdout, stderr := s.run(t, append([]string{command}, args...)...); status != 2 || stdout != "" || stderr == "" {
				t.Errorf("%s %q ended with %d: %s", command, args, status, stdout+stderr)
			}
		}
	}
	if status, stdout, stderr := s.run(t, "drain", "web-1"); status != 1 || stdout != "" || !strings.Contains(stderr, "--all") {
		t.Errorf("where none would remain, drain ended with %d: %s", status, stdout+stderr)
	}
	if status, _, stderr := s.run(t, "drain", "web-1", "--all", "--timeout=2s"); status != 3 || stderr == "" {
		t.Errorf("where it keeps a partition, drain ended with %d: %s", status, stderr)
	}
	p := harness.Launch(t, s.settings.Environ(), "drain", "web-1", "--all")
	harness.Eventually(t, "it waits", func() bool { return strings.Contains(p.Stdout.String(), "partitions left: 1") })
	s.play(t, "web-2")
	a.Close()
	if status := p.AwaitExit(t, harness.Timeout); status != 1 || !strings.Contains(p.Stderr.String(), "web-1") {
		t.Errorf("where it ends, drain ended with %d: %s", status, p.Stderr.String())
	}
	s.settings["amqp.port"] = harness.FreePort(t)
	if status, _, stderr := s.run(t, "drain", "web-1"); status != 129 || stderr == "" {
		t.Errorf("where no broker is, drain ended with %d: %s", status, stderr)
	}
}

// testDrainTwoOperators has another operator drain the only other instance at the same time.
func testDrainTwoOperators(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	a, b := s.play(t, "web-1", "web-2"), s.play(t, "web-2", "web-1")
	a.mu.Lock()
	a.drain = func(report *membership.Report, yes bool) {
		report.State = "ready"
		if yes {
			report.State = "draining"
			b.mu.Lock()
			b.report.State = "draining"
			b.mu.Unlock()
		}
	}
	a.mu.Unlock()
	if status, stdout, stderr := s.run(t, "drain", "web-1"); status != 1 || stdout != "" || !strings.Contains(stderr, "undrained again") {
		t.Errorf("drain ended with %d: %s", status, stdout+stderr)
	}
	a.mu.Lock()
	if a.report.State != "ready" {
		t.Errorf("afterwards, it is %s", a.report.State)
	}
	a.mu.Unlock()
	b.mu.Lock()
	b.silent = true
	b.mu.Unlock()
	if status, stdout, stderr := s.run(t, "drain", "web-1"); status != 1 || stdout != "" || !strings.Contains(stderr, "--all") {
		t.Errorf("beside one that does not reply, drain ended with %d: %s", status, stdout+stderr)
	}
}

func testDrainRealInstances(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	for _, name := range []string{"web-1", "web-2"} {
		s.Serve(t, harness.Settings{"cluster.instance": name, "cluster.weight": "0.5"})
	}
	// holds waits until all partitions have an owner, and the instance as many of
	// them as it should.
	holds := func(name string, least, most int) {
		t.Helper()
		harness.Eventually(t, name+" has its partitions", func() bool {
			status, stdout, _ := harness.Run(t, s.Settings.Environ(), "status", "--json")
			var o struct {
				Members    []struct{ Name, Version string }
				Partitions []struct{ Owner string }
			}
			if status != 0 || json.Unmarshal([]byte(stdout), &o) != nil {
				return false
			}
			held := 0
			for _, p := range o.Partitions {
				if p.Owner == name {
					held++
				}
			}
			return len(o.Members) == 2 && len(o.Partitions) == 4 && least <= held && held <= most
		})
	}
	holds("web-1", 1, 3)
	if status, stdout, stderr := harness.Run(t, s.Settings.Environ(), "drain", "web-1"); status != 0 || stderr != "" {
		t.Fatalf("drain ended with %d: %s", status, stdout+stderr)
	}
	holds("web-2", 4, 4)
	if status, stdout, stderr := harness.Run(t, s.Settings.Environ(), "undrain", "web-1"); status != 0 || stderr != "" {
		t.Fatalf("undrain ended with %d: %s", status, stdout+stderr)
	}
	holds("web-1", 1, 3)
	testMove(t, s, holds)
	if status, stdout, stderr := harness.Run(t, s.Settings.Environ(), "drain", "web-1", "web-2"); status != 1 || !strings.Contains(stderr, "--all") {
		t.Errorf("drain of all ended with %d: %s", status, stdout+stderr)
	}
	if status, stdout, stderr := harness.Run(t, s.Settings.Environ(), "drain", "--all", "web-1", "web-2"); status != 0 || strings.Count(stdout, "has no partitions") != 2 {
		t.Errorf("drain --all ended with %d: %s", status, stdout+stderr)
	}
}

// testMove moves all partitions to web-2, and undoes that.
func testMove(t *testing.T, s *harness.Site, holds func(name string, least, most int)) {
	t.Helper()
	move := func(want int, says string, args ...string) {
		t.Helper()
		status, stdout, stderr := harness.Run(t, s.Settings.Environ(), append([]string{"move"}, args...)...)
		if status != want || !strings.Contains(stdout+stderr, says) {
			t.Errorf("move %q ended with %d: %s", args, status, stdout+stderr)
		}
	}
	move(2, "instance", "1")
	move(2, "number", "one", "web-2")
	move(2, "no instance", "1", "web-2", "--undo")
	move(1, "0 to 3", "4", "web-2")
	move(1, "web-1, web-2", "1", "web-3")
	move(1, "not moved", "1", "--undo")
	for p := range 4 {
		move(0, "web-2 serves partition", fmt.Sprint(p), "web-2")
	}
	holds("web-2", 4, 4)
	if _, stdout, _ := harness.Run(t, s.Settings.Environ(), "status"); !strings.Contains(stdout, "Moved by operators: 0-3 to web-2\n") {
		t.Errorf("status: %s", stdout)
	}
	for p := range 4 {
		move(0, "the hash ring assigns", fmt.Sprint(p), "--undo")
	}
	holds("web-1", 1, 3)
}
