package sim

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
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
		heartbeats := len(w.instances) * (int(w.now.Sub(began)/time.Second)*10/9 + 1)
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
func (w *world) pauses(d time.Duration) []time.Duration {
	const resolution = time.Millisecond
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
// it.
func (w *world) isServed(p int) bool {
	ch, row := w.broker.served(p), w.epochs.rows[p]
	return ch != nil && !ch.canceled && !ch.closed && ch.owner.running && !ch.owner.frozen &&
		row.Epoch == ch.epoch && !row.Released
}

// Partitions that do not move never pause. Partitions that move pause for little longer
// than their commands take.
func TestPauses(t *testing.T) {
	tests := []struct {
		name   string
		change func(w *world)
		limit  time.Duration
	}{
		{"join", func(w *world) { w.launch("ident-3") }, 60 * time.Millisecond},
		{"leave", func(w *world) { w.find("ident-1").post(ownership.LeaveRequested{}) }, 60 * time.Millisecond},
		{"drain", func(w *world) { w.find("ident-1").post(ownership.DrainRequested{}) }, 60 * time.Millisecond},
		{"crash", func(w *world) { w.find("ident-1").exit(2 * time.Millisecond) }, 300 * time.Millisecond},
		{"freeze", func(w *world) { w.find("ident-1").freeze(time.Minute, false) }, 3500 * time.Millisecond},
	}
	for _, test := range tests {
		w := newSettledWorld(3, 128)
		before, epochs := w.assign(w.instances[0].core.Status().Ring), slices.Clone(w.epochs.rows)
		test.change(w)
		pauses := w.pauses(6 * time.Second)
		after := w.assign(w.instances[0].core.Status().Ring)

		var moved []time.Duration
		for p, pause := range pauses {
			stayed := before[p] == after[p]
			switch {
			case stayed && (pause > 0 || w.epochs.rows[p] != epochs[p]):
				t.Errorf("%s: partition %d stays with %s, and paused for %v", test.name, p, after[p], pause)
			case !stayed:
				moved = append(moved, pause)
			}
		}
		slices.Sort(moved)
		t.Logf("%-8s %3d moved, paused for %v in the median and %v at most", test.name, len(moved), moved[len(moved)/2], moved[len(moved)-1])
		if most := moved[len(moved)-1]; most > test.limit {
			t.Errorf("%s: a partition paused for %v", test.name, most)
		}
	}
}
