package handover

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

// programBefore names the program that instances run before they are updated, to
// see this one work beside an earlier version. Without it, it is this one.
const programBefore = "GLOTPOD_IDENT_PROGRAM_BEFORE"

// A rollout is a cluster that is changed under a steady load, one instance after another.
type rollout struct {
	*harness.Site
	t         *testing.T
	instances map[string]*harness.Instance
	load      *steadyLoad
	changing  time.Duration // since the load's begin
}

// newRollout starts a cluster, and a load that has shown what is usual.
func newRollout(t *testing.T, s *harness.Site, instances, partitions int, interval time.Duration) *rollout {
	s.Settings["cluster.partitions"] = fmt.Sprint(partitions)
	r := &rollout{Site: s, t: t, instances: make(map[string]*harness.Instance)}
	before := os.Getenv(programBefore)
	r.migrateBy(before)
	for n := range instances {
		r.start(rolloutName(n), before)
	}
	s.AwaitStableOwners(t, r.names(), func() bool { return true })
	users := createUsersOf(t, s.NewCaller(t), partitions, 2)
	r.load = startLoad(t, s, users, interval)
	harness.Eventually(t, "the usual latency is known", func() bool { return r.load.now() > handOverWarm+handOverUsual })
	r.changing = r.load.now()
	return r
}

func rolloutName(n int) string { return fmt.Sprintf("rollout-%d", n) }

func (r *rollout) names() (names []string) {
	for name := range r.instances {
		names = append(names, name)
	}
	return names
}

// start starts an instance and waits until it is ready, as a StatefulSet does. A
// program of "" is this one.
func (r *rollout) start(name, program string) {
	env := r.Settings.With(harness.Settings{"cluster.instance": name}).Environ()
	r.instances[name] = r.ServeBy(r.t, func() *harness.Process {
		return harness.LaunchProgram(r.t, cmp.Or(program, r.self()), env, "serve")
	})
}

// migrateBy runs the migrate of a program.
func (r *rollout) migrateBy(program string) {
	p := harness.LaunchProgram(r.t, cmp.Or(program, r.self()), r.Settings.Environ(), "migrate")
	if status := p.AwaitExit(r.t, harness.Timeout); status != 0 {
		r.t.Fatalf("migrate ended with %d: %s", status, p.Stderr.String())
	}
}

func (r *rollout) self() string {
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	return self
}

func (r *rollout) stop(name string) {
	r.instances[name].Stop(r.t)
	delete(r.instances, name)
}

// update migrates the schema, and then restarts each instance with this program.
func (r *rollout) update() {
	r.migrateBy("")
	for _, name := range slices.Sorted(slices.Values(r.names())) {
		r.stop(name)
		r.start(name, "")
	}
}

// scale starts instances until there are so many, one after another, or stops the
// last ones, all at once.
func (r *rollout) scale(from, to int) {
	for n := from; n < to; n++ {
		r.start(rolloutName(n), "")
	}
	for n := to; n < from; n++ {
		r.instances[rolloutName(n)].Terminate(r.t)
	}
	for n := to; n < from; n++ {
		name := rolloutName(n)
		if status := r.instances[name].AwaitExit(r.t, harness.Timeout); status != 0 {
			r.t.Errorf("SIGTERM ended %s with %d", name, status)
		}
		delete(r.instances, name)
	}
}

// finish waits until the owners are stable, and returns the requests before the changes
// and those from then on.
func (r *rollout) finish() (before, during []shot) {
	r.AwaitStableOwners(r.t, r.names(), func() bool { return r.load.waitsFor() < time.Second })
	for _, x := range r.load.finish(r.t) {
		switch {
		case x.due+x.took < handOverWarm:
		case x.answered && x.due+x.took < r.changing:
			before = append(before, x)
		default:
			during = append(during, x)
		}
	}
	return before, during
}

// failures returns how many requests got no reply or an error reply.
func failures(shots []shot) (n int) {
	for _, x := range shots {
		if !x.answered || x.code != "" {
			n++
		}
	}
	return n
}

func times(shots []shot) (all []time.Duration) {
	for _, x := range shots {
		all = append(all, x.took)
	}
	return all
}

func TestRollout(t *testing.T) {
	t.Parallel()
	r := newRollout(t, harness.NewEmptySite(t), 2, 16, 200*time.Millisecond)
	r.update()
	r.scale(2, 4)
	r.scale(4, 2)
	before, during := r.finish()
	if n := failures(before) + failures(during); n > 0 {
		t.Errorf("%d of %d requests failed", n, len(before)+len(during))
	}
}

// BenchmarkRollout measures what callers notice while five instances are updated
// one by one, and while two become five and two again.
func BenchmarkRollout(b *testing.B) {
	database := testservers.OwnPostgres(b, localserver.PostgresOptions{Durable: true})
	for _, c := range []struct {
		name      string
		instances int
		change    func(*rollout)
	}{
		{"update", 5, (*rollout).update},
		{"scale", 2, func(r *rollout) { r.scale(2, 5); r.scale(5, 2) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			var usual, changed []time.Duration
			failed, requests := 0, 0
			for b.Loop() {
				harness.AsTest(b, func(t *testing.T) {
					s := harness.NewEmptySite(t)
					s.UsePostgres(t, database)
					s.Settings["log.level"] = "info"
					r := newRollout(t, s, c.instances, handOverPartitions, 2*handOverInterval)
					c.change(r)
					before, during := r.finish()
					usual, changed = append(usual, times(before)...), append(changed, times(during)...)
					failed, requests = failed+failures(before)+failures(during), requests+len(before)+len(during)
				})
			}
			was, is := percentile(usual, 99), percentile(changed, 99)
			b.ReportMetric(milliseconds(was), "p99-before-ms")
			b.ReportMetric(milliseconds(is), "p99-during-ms")
			b.ReportMetric(float64(is)/float64(was), "p99-ratio")
			b.ReportMetric(milliseconds(percentile(changed, 100)), "max-during-ms")
			b.ReportMetric(float64(failed), "failed")
			b.ReportMetric(float64(requests), "requests")
			b.ReportMetric(0, "ns/op")
		})
	}
}
