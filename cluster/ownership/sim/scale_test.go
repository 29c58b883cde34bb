package sim

import (
	"fmt"
	"testing"
	"time"
)

// A traffic is what all instances together did in a while.
type traffic struct {
	d           time.Duration
	instances   int
	before, now count
}

// watch advances the time by d, and returns what the instances did meanwhile.
func (w *world) watch(d time.Duration) traffic {
	t := traffic{d: d, before: w.count}
	w.run(d)
	t.now = w.count
	for _, i := range w.instances {
		if i.running {
			t.instances++
		}
	}
	return t
}

// broadcasts returns the messages to all members, each of which reaches every instance.
func (t traffic) broadcasts() int { return t.now.broadcasts - t.before.broadcasts }

func (t traffic) String() string {
	seconds := t.d.Seconds()
	each := func(n int) float64 { return float64(n) / float64(t.instances) }
	return fmt.Sprintf("an instance receives %.0f messages a second, and sends %.2f to all; in all %.1f to one, %.1f probes, %.1f surveys; %.0f claims, %.0f steps for each instance",
		float64(t.broadcasts())/seconds, each(t.broadcasts())/seconds, float64(t.now.sent-t.before.sent)/seconds,
		float64(t.now.probes-t.before.probes)/seconds, float64(t.now.surveys-t.before.surveys)/seconds,
		each(t.now.claims-t.before.claims), each(t.now.steps-t.before.steps))
}

// However many instances there are, each receives a bounded number of messages when nothing
// happens; when all start together, also after the broker, and when one dies, they send a
// bounded number for each instance, and are done within seconds.
func TestScale(t *testing.T) {
	const partitions = 256
	for _, n := range []int{3, 10, 30, 100} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newWorld(setting{seed: 1, partitions: partitions, writeEvery: time.Second}, nil)
			w.open()
			settles := func(what string, broadcasts int, within time.Duration) {
				t.Helper()
				before, began := w.count, w.now
				for w.run(10 * time.Millisecond); w.unsettled() != ""; w.run(10 * time.Millisecond) {
					if w.now.Sub(began) > time.Minute {
						t.Fatal(what, w.unsettled())
					}
				}
				took := traffic{d: w.now.Sub(began), instances: n, before: before, now: w.count}
				t.Logf("%s: settled after %v: %v", what, took.d, took)
				if took.d > within || took.broadcasts() > broadcasts {
					t.Errorf("%s: %d messages to all and %v, and %d and %v are enough", what, took.broadcasts(), took.d, broadcasts, within)
				}
			}
			for i := range n {
				w.launch(fmt.Sprintf("ident-%d", i))
			}
			settles("start", 10*n+partitions, 3*time.Second)
			w.run(5 * time.Second)
			idle := w.watch(20 * time.Second)
			t.Logf("idle: %v", idle)
			if perSecond := float64(idle.broadcasts()) / idle.d.Seconds(); perSecond > 115 {
				t.Errorf("each instance receives %.0f messages a second when nothing happens", perSecond)
			}
			w.find("ident-1").exit(2 * time.Millisecond)
			settles("death", 10*n+partitions, 5*time.Second)
			w.broker.restart(2 * time.Second)
			w.run(2 * time.Second)
			settles("restart of the broker", 10*n+partitions, 5*time.Second)
			if len(w.failures) > 0 {
				t.Errorf("%v", w.failures)
			}
		})
	}
}
