package sim

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
)

// Whatever two things happen to instances at a time, some of which may happen to the next
// owner too:
//   - while any instance works and the database replies, no partition is for more than two seconds
//     without an owner that the broker is connected to;
//   - no partition is without an owner that serves it for longer than the broker takes to drop two
//     connections one after the other.
func TestLiveness(t *testing.T) {
	const instances = 5
	const mostUnowned, mostUnserved = 2 * time.Second, 2*3*time.Second + 100*time.Millisecond
	var unowned, unserved time.Duration
	for seed := range uint64(16) {
		w := newWorld(setting{seed: seed, partitions: 32, writeEvery: 200 * time.Millisecond, weighted: seed%2 == 1}, nil)
		w.open()
		for n := range instances {
			w.launch(fmt.Sprintf("n%02d", n))
		}
		w.run(2 * time.Second)
		for range 4 {
			for range 2 {
				if i := w.pick(running); i != nil {
					w.after(w.between(0, 2*time.Second), func() { w.disturb(i) })
				}
			}
			s := w.observe(12*time.Second, 10*time.Millisecond)
			if s.unowned > mostUnowned || s.unserved > mostUnserved {
				t.Fatalf("seed %d: a partition had no owner for %v, and no instance served one for %v", seed, s.unowned, s.unserved)
			}
			unowned, unserved = max(unowned, s.unowned), max(unserved, s.unserved)
		}
		report(t, "TestLiveness", seed, w)
	}
	t.Logf("no owner for %v at most, not served for %v at most", unowned, unserved)
}

// An interruption has the longest times in which a partition was not available.
type interruption struct{ unowned, unserved time.Duration }

// observe advances the time by d.
func (w *world) observe(d, resolution time.Duration) (longest interruption) {
	current := make([]interruption, w.setting.partitions)
	for end := w.now.Add(d); w.now.Before(end); {
		w.run(resolution)
		able := w.epochs.up && slices.ContainsFunc(w.instances, (*instance).isAble)
		for p := range current {
			c := &current[p]
			c.unowned += resolution
			if !able || w.isOwned(p) {
				c.unowned = 0
			}
			c.unserved += resolution
			if w.isServed(p) {
				c.unserved = 0
			}
			longest.unowned, longest.unserved = max(longest.unowned, c.unowned), max(longest.unserved, c.unserved)
		}
	}
	return longest
}

// isOwned reports whether a partition has an owner that the broker is connected to.
func (w *world) isOwned(p int) bool {
	row := w.epochs.rows[p]
	return !row.Released && slices.ContainsFunc(w.broker.connections, func(c *connection) bool { return c.member == row.Holder })
}

// isAble reports whether an instance can claim partitions now.
func (i *instance) isAble() bool {
	c := i.connection
	return i.running && !i.frozen && c != nil && c.open && !c.severed && i.core.Status().State == ownership.Ready
}

// disturb does one of several things to an instance, and undoes it within six seconds.
func (w *world) disturb(i *instance) {
	if !i.running || i.connection == nil {
		return
	}
	back := w.between(0, 6*time.Second)
	switch w.random.IntN(9) {
	case 0:
		i.exit(2 * time.Millisecond)
		w.after(back, func() { w.launch(i.name) })
	case 1:
		i.freeze(back, false)
	case 2:
		i.sever()
	case 3:
		i.connection.mutedUntil = w.now.Add(back)
	case 4:
		i.connection.stuckUntil = w.now.Add(back)
	case 5:
		i.post(ownership.LeaveRequested{})
		w.after(back, func() { w.launch(i.name) })
	case 6:
		i.post(ownership.DrainRequested{})
		w.after(back, func() { i.post(ownership.UndrainRequested{}) })
	case 7:
		for _, other := range []*instance{i, w.pick(running)} {
			other.post(ownership.DrainRequested{})
			w.after(back, func() { other.post(ownership.UndrainRequested{}) })
		}
	case 8:
		for p := range w.setting.partitions / 4 {
			i.post(ownership.MoveRequested{Partition: p})
			w.after(back, func() { w.pick(running).post(ownership.MoveRequested{Partition: p}) })
		}
	}
}
