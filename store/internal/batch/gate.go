package batch

import (
	"sync/atomic"
	"time"
)

// A groupGate lets one worker at a time process a group. If a group takes long, another
// one may be processed beside it.
type groupGate struct {
	token chan struct{} // holds one value while the gate is free
	last  atomic.Int64  // how many items the last group had
}

// gatherFor is how long a worker waits for more items if the last group had more than there are.
const gatherFor = time.Millisecond

// gather waits shortly if more items are likely to come: goroutines that submit one item after
// another do so together after a group. It does not wait if the last group had one item.
func (g *groupGate) gather(items int, closing <-chan struct{}) {
	if g == nil || int64(items) >= g.last.Load() {
		return
	}
	timer := time.NewTimer(gatherFor)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-closing:
	}
}

// note notes how many items a group has.
func (g *groupGate) note(items int) {
	if g != nil {
		g.last.Store(int64(items))
	}
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
