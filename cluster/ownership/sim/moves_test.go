package sim

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// newSettledWorld returns a world at rest in which n instances share the partitions.
func newSettledWorld(n, partitions int) *world {
	w := newWorld(setting{seed: 1, partitions: partitions, writeEvery: time.Second}, nil)
	w.open()
	for i := range n {
		w.launch(fmt.Sprintf("ident-%d", i))
	}
	w.run(time.Second)
	w.settle(settleLimit)
	return w
}

// moves returns how many partitions have moved to another name since before.
func (w *world) moves(before count) int { return w.count.moved - before.moved }

// A change of the members moves few partitions more than necessary, however many
// members change together.
func TestMoves(t *testing.T) {
	const n, partitions = 10, 1024
	tests := []struct {
		name   string
		ideal  int
		change func(w *world)
	}{
		{"join", partitions / (n + 1), func(w *world) {
			w.launch("new")
		}},
		{"leave", partitions / n, func(w *world) {
			w.find("ident-3").post(ownership.LeaveRequested{})
		}},
		{"crash", partitions / n, func(w *world) {
			w.find("ident-3").exit(2 * time.Millisecond)
		}},
		{"ten join together", partitions / 2, func(w *world) {
			for i := range 10 {
				w.after(w.between(0, time.Second/2), func() { w.launch(fmt.Sprintf("new-%d", i)) })
			}
		}},
		{"drain and undrain", 2 * partitions / n, func(w *world) {
			w.find("ident-3").post(ownership.DrainRequested{})
			w.run(3 * time.Second)
			w.find("ident-3").post(ownership.UndrainRequested{})
		}},
		{"rolling update", 2 * partitions, func(w *world) {
			for i := range n {
				name := fmt.Sprintf("ident-%d", i)
				w.find(name).post(ownership.LeaveRequested{})
				w.run(3 * time.Second)
				w.launch(name)
				w.run(3 * time.Second)
			}
		}},
		{"rolling update in haste", 2 * partitions, func(w *world) {
			for i := range n {
				name := fmt.Sprintf("ident-%d", i)
				w.find(name).post(ownership.LeaveRequested{})
				w.run(700 * time.Millisecond)
				w.launch(name)
				w.run(500 * time.Millisecond)
			}
		}},
	}
	for _, test := range tests {
		w := newSettledWorld(n, partitions)
		before, began := w.count, w.now
		test.change(w)
		w.run(time.Second)
		w.settle(settleLimit)
		got := w.moves(before)
		heartbeats := len(w.instances) * (int(w.now.Sub(began)/time.Second)*heartbeatsPerSecond*10/9 + 1)
		messages := w.count.broadcasts - before.broadcasts - heartbeats
		direct := w.count.sent - before.sent
		t.Logf("%-24s %4d moves, ideal %4d: %+.0f %%; %d messages to all more than heartbeats, %d to one",
			test.name, got, test.ideal, 100*(float64(got)/float64(test.ideal)-1), messages, direct)
		if got > test.ideal*5/4 {
			t.Errorf("%s: %d partitions have moved, the ideal is %d", test.name, got, test.ideal)
		}
		if messages > got/2+len(w.instances)*len(w.instances) || direct > got {
			t.Errorf("%s: %d messages to all and %d to one for %d moves", test.name, messages, direct, got)
		}
		if len(w.failures) > 0 {
			t.Errorf("%s: %v", test.name, w.failures)
		}
	}
}

// Instances that start together claim each partition once, or twice if one of them was
// ready first. A single instance does not wait for others.
func TestStart(t *testing.T) {
	const partitions = 256
	for _, test := range []struct {
		instances int
		spread    time.Duration
		claims    int
		within    time.Duration
	}{
		{1, 0, partitions, 400 * time.Millisecond},
		{10, 200 * time.Millisecond, partitions, time.Second},
		{10, 2 * time.Second, 2 * partitions, 4 * time.Second},
	} {
		w := newWorld(setting{seed: 1, partitions: partitions, writeEvery: 100 * time.Millisecond}, nil)
		w.open()
		for i := range test.instances {
			w.after(w.between(0, test.spread), func() { w.launch(fmt.Sprintf("ident-%d", i)) })
		}
		for w.run(10 * time.Millisecond); len(w.instances) < test.instances || w.unsettled() != ""; w.run(10 * time.Millisecond) {
			if w.elapsed() > time.Minute {
				t.Fatal(w.unsettled())
			}
		}
		t.Logf("%d instances started within %v: settled after %v, %d claims won for %d partitions",
			test.instances, test.spread, w.elapsed(), w.count.won, partitions)
		if w.count.won > test.claims || w.elapsed() > test.within {
			t.Errorf("should have taken %d claims and %v", test.claims, test.within)
		}
	}
}

// pauses advances the time by d, and returns for each partition the longest time in
// which no instance served it.
func (w *world) pauses(d, resolution time.Duration) []time.Duration {
	longest := make([]time.Duration, w.setting.partitions)
	current := make([]time.Duration, w.setting.partitions)
	for end := w.now.Add(d); w.now.Before(end); {
		w.run(resolution)
		for p := range current {
			if w.isServed(p) {
				current[p] = 0
				continue
			}
			current[p] += resolution
			longest[p] = max(longest[p], current[p])
		}
	}
	return longest
}

// isServed reports whether an instance consumes the partition queue and may write for
// it now.
func (w *world) isServed(p int) bool {
	ch, row := w.broker.served(p), w.epochs.rows[p]
	return ch != nil && ch.serving && !ch.canceled && !ch.closed && ch.owner.running && !ch.owner.frozen && !ch.connection.severed &&
		row.Epoch == ch.epoch && !row.Released
}

// Partitions that do not move never pause. Partitions that move pause for little longer
// than their commands take, or than it takes to notice that their owner is dead, however many
// instances there are.
func TestPauses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(w *world)
		limit  time.Duration
	}{
		{"join", func(w *world) { w.launch("new") }, 60 * time.Millisecond},
		// Here, but not in a broker, the news that the instance has left may overtake the last grant.
		{"leave", func(w *world) { w.find("ident-1").post(ownership.LeaveRequested{}) }, 60*time.Millisecond + partition.DeposedReadsFor},
		{"drain", func(w *world) { w.find("ident-1").post(ownership.DrainRequested{}) }, 60 * time.Millisecond},
		{"move", func(w *world) {
			for p := range 8 {
				w.find("ident-1").post(ownership.MoveRequested{Partition: p})
			}
		}, 60 * time.Millisecond},
		{"crash", func(w *world) { w.find("ident-1").exit(2 * time.Millisecond) }, 300*time.Millisecond + partition.DeposedReadsFor},
		{"freeze", func(w *world) { w.find("ident-1").freeze(time.Minute, false) }, 3010 * time.Millisecond},
		{"cut", func(w *world) { w.find("ident-1").sever() }, 3010 * time.Millisecond},
	} {
		for _, instances := range []int{3, 5, 20} {
			t.Run(fmt.Sprintf("%s/%d_instances", test.name, instances), func(t *testing.T) {
				testPauses(t, instances, test.change, test.limit)
			})
		}
	}
}

// ringOwners returns the owners of the partitions according to one instance.
func ringOwners(i *instance) (owners []string) {
	for _, p := range i.core.Status().Partitions {
		owners = append(owners, p.AssignedTo)
	}
	return owners
}

func testPauses(t *testing.T, instances int, change func(*world), limit time.Duration) {
	w := newSettledWorld(instances, 128)
	before := ringOwners(w.instances[0])
	epochs := slices.Clone(w.epochs.rows)
	change(w)
	pauses := w.pauses(4*time.Second, time.Millisecond)
	after := ringOwners(w.instances[0])

	var moved []time.Duration
	for p, pause := range pauses {
		stayed := before[p] == after[p]
		switch {
		case stayed && (pause > 0 || w.epochs.rows[p] != epochs[p]):
			t.Errorf("partition %d stays with %s, and paused for %v", p, after[p], pause)
		case !stayed:
			moved = append(moved, pause)
		}
	}
	slices.Sort(moved)
	t.Logf("%3d moved, paused for %v in the median and %v at most", len(moved), moved[len(moved)/2], moved[len(moved)-1])
	if most := moved[len(moved)-1]; most > limit {
		t.Errorf("a partition paused for %v", most)
	}
}

// An instance that works is not suspected, and one that was frozen or cut off suspects none.
// Nor does one while the broker passes no message on, for however long.
func TestSuspicions(t *testing.T) {
	const instances = 5
	for _, test := range []struct {
		name   string
		change func(w *world)
		wrong  int64 // suspicions of members that work; -1: any number
	}{
		{"nothing_happens", func(*world) {}, 0},
		{"the_broker_pauses", func(w *world) { w.broker.pause(8 * time.Second) }, 0},
		{"all_are_frozen", func(w *world) {
			for _, i := range w.instances {
				i.freeze(w.between(7*time.Second, 8*time.Second), true)
			}
		}, 0},
		{"one_is_frozen", func(w *world) { w.find("ident-1").freeze(8*time.Second, true) }, instances - 1},
		{"one_is_frozen_shortly", func(w *world) { w.find("ident-1").freeze(900*time.Millisecond, true) }, 0},
		{"one_is_cut_off", func(w *world) { w.find("ident-1").sever() }, 0},
		{"one_is_heard_by_none", func(w *world) {
			c := w.find("ident-1").connection
			c.mutedUntil = w.now.Add(3 * time.Second)
		}, instances - 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newSettledWorld(instances, 64)
			var wrong int64
			test.change(w)
			w.run(20 * time.Second)
			for _, i := range w.instances {
				wrong += i.core.Status().Suspicions.Wrong
			}
			if wrong != test.wrong || len(w.failures) > 0 {
				t.Errorf("%d members that live were suspected, want %d; %v", wrong, test.wrong, w.failures)
			}
			w.settle(settleLimit)
		})
	}
}
