package sim

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// While the nodes of the broker have lost contact and all instances reach the database, each
// half of the instances believes that the other one is dead. Then the halves do not depose
// each other again and again, and each partition has an owner that gets its requests.
func TestSplit(t *testing.T) {
	const instances, partitions, lasts = 5, 32, time.Minute
	for name, s := range map[string]split{
		"each_half_reaches_the_queues":            {queuesOn: -1},
		"each_half_reaches_the_queues/gone":       {queuesOn: -1, gone: true},
		"one_half_does_not_reach_the_queues":      {queuesOn: 0},
		"one_half_does_not_reach_the_queues/gone": {queuesOn: 0, gone: true},
		"one_half_is_refused_by_the_queues":       {queuesOn: 0, refuse: true},
		"one_half_is_refused_by_the_queues/gone":  {queuesOn: 0, refuse: true, gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newSettledWorld(instances, partitions)
			before := w.count
			w.broker.divide(s, lasts)
			first := slices.Max(w.pauses(10*time.Second, 10*time.Millisecond))
			early := w.count.deposed - before.deposed
			later := slices.Max(w.pauses(lasts-10*time.Second-time.Millisecond, 10*time.Millisecond))
			deposed := w.count.deposed - before.deposed
			t.Logf("%d deposed in 10 s, %d in a minute; paused for %v, and later for %v", early, deposed, first, later)
			if most := 8 * partitions; deposed > most {
				t.Errorf("%d leases were taken from instances that live, more than %d", deposed, most)
			}
			if first > 2*time.Second || later > 2*time.Second {
				t.Errorf("no instance served a partition for %v, and later for %v", first, later)
			}
			settled := w.settle(settleLimit)
			w.checkAtRest(12)
			if len(w.failures) > 0 {
				t.Errorf("settled after %v: %v", settled, w.failures)
			}
		})
	}
}

// An instance that cannot hear itself claims nothing, whatever it hears from others.
func TestCutOff(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(setting{seed: seed, partitions: 16, writeEvery: 200 * time.Millisecond}, nil)
		w.open()
		for n := range 3 {
			w.launch(fmt.Sprintf("n%02d", n))
		}
		w.run(w.between(0, 2*time.Second))
		for range 6 {
			if i := w.pick(running); i != nil && i.connection != nil {
				i.connection.stuckUntil = w.now.Add(w.between(0, 8*time.Second))
			}
			if i := w.pick(running); i != nil {
				w.after(w.between(0, 2*time.Second), func() { w.disturb(i) })
			}
			w.run(w.between(0, 10*time.Second))
		}
		report(t, "TestCutOff", seed, w)
	}
}
