package operate

import (
	"encoding/json"
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
		!reflect.DeepEqual(harness.FromJSON(t, []byte(stdout)), harness.Normalize(dict{"instance": "web-1", "state": "draining", "partitions": 0})) {
		t.Errorf("drain --json ended with %d: %s", status, stdout)
	}
	if status, stdout, _ := s.run(t, "undrain", "web-1", "--json"); status != 0 || stdout != "{\n  \"instance\": \"web-1\"\n}\n" {
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
		for _, args := range [][]string{{}, {"web-1", "web-2"}, {"web 1"}, {"--nope", "web-1"}} {
			if status, stdout, stderr := s.run(t, append([]string{command}, args...)...); status != 2 || stdout != "" || stderr == "" {
				t.Errorf("%s %q ended with %d: %s", command, args, status, stdout+stderr)
			}
		}
	}
	if status, _, stderr := s.run(t, "drain", "web-1", "--timeout=2s"); status != 3 || stderr == "" {
		t.Errorf("where it keeps a partition, drain ended with %d: %s", status, stderr)
	}
	p := harness.Launch(t, s.settings.Environ(), "drain", "web-1")
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

func testDrainRealInstances(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	for _, name := range []string{"web-1", "web-2"} {
		s.Serve(t, harness.Settings{"cluster.instance": name})
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
}
