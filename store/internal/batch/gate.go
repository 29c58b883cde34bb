package batch

import (
	"sync/atomic"
	"time"
)

// A groupGate lets one worker at a time process a group. If a group takes long, another
// one may be processed beside it.
type groupGate struct {
	token chan struct{} // holds one value while the gate is free
	usual atomic.Int64  // the number of items of the largest recent group
	took  atomic.Int64  // how long the last group was processed, in nanoseconds
}

const (
	// enoughItems is how many items a worker waits for at most. Each group costs the
	// database as much as about ten items; for larger groups that is little.
	enoughItems = 32

	// gatherAtMost bounds how long a worker waits for items.
	gatherAtMost = 10 * time.Millisecond
)

// gather waits shortly if it pays to wait for more items. Goroutines submit one
// item after another, so as many as were in a recent group are likely to come soon. An item
// waits for at most twice the time that the last group took: long if the database is
// loaded, so that groups become large and cost it less, and shortly if it is not. It does not
// wait if the recent groups had one item, or once isEnough reports that the group has so many
// items or is large otherwise.
func (g *groupGate) gather(isEnough func(items int) bool, closing <-chan struct{}) {
	if g == nil {
		return
	}
	enough, atMost := int(min(g.usual.Load(), enoughItems)), min(2*time.Duration(g.took.Load()), gatherAtMost)
	if isEnough(enough) {
		return
	}
	// To look again and again costs less than to be woken by each item.
	const looks = 8
	ticker := time.NewTicker(max(atMost/looks, time.Microsecond))
	defer ticker.Stop()
	for i := 0; i < looks && !isEnough(enough); i++ {
		select {
		case <-ticker.C:
		case <-closing:
			return
		}
	}
}

// note notes how many items a group had, and how long it was processed. A smaller group than
// usual counts for an eighth of the difference to none.
func (g *groupGate) note(items int, took time.Duration) {
	if g == nil {
		return
	}
	usual := g.usual.Load()
	g.usual.Store(max(int64(items), usual-(usual+7)/8))
	g.took.Store(int64(took))
}

// overlapAfter bounds how long a worker waits for the group of another one.
const overlapAfter = 25 * time.Millisecond

func newGroupGate() *groupGate {
	g := &groupGate{token: make(chan struct{}, 1)}
	g.leave()
	return g
}

// enter waits until the gate is free, until overlapAfter has passed, or until closing is
// closed. The caller must call leave when its group is processed.
func (g *groupGate) enter(closing <-chan struct{}) (leave func()) {
	if g == nil {
		return func() {}
	}
	select {
	case <-g.token:
		return g.leave
	default:
	}
	timer := time.NewTimer(overlapAfter)
	defer timer.Stop()
	select {
	case <-g.token:
		return g.leave
	case <-timer.C:
	case <-closing:
	}
	return func() {}
}

func (g *groupGate) leave() { g.token <- struct{}{} }
