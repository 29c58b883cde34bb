package batch

import (
	"sync"
	"sync/atomic"
	"time"
)

// A groupGate lets one worker at a time make and process a group. If a group takes long,
// another one may be made and processed beside it.
type groupGate struct {
	token      chan struct{} // holds one value while the gate is free
	processing atomic.Int64  // how many groups are being processed
	usual      atomic.Int64  // about the number of items of the largest recent group
	took       atomic.Int64  // how long the last group was processed, in nanoseconds
}

const (
	// enoughItems is how many items a worker waits for at most. A group costs the
	// database as much as twenty to thirty of its items. For larger groups that is little.
	enoughItems = 32

	// gatherAtMost bounds how long a worker waits for items.
	gatherAtMost = 8 * time.Millisecond

	// overlapAfter bounds how long a group is processed until another worker makes the
	// next one.
	overlapAfter = 25 * time.Millisecond
)

func newGroupGate() *groupGate {
	g := &groupGate{token: make(chan struct{}, 1)}
	g.token <- struct{}{}
	return g
}

// enter waits until the gate is free. Then the caller may make a group. It must call leave,
// once or more often. ok is false if closing was closed before.
func (g *groupGate) enter(closing <-chan struct{}) (leave func(), ok bool) {
	if g == nil {
		return func() {}, true
	}
	select {
	case <-g.token:
		return sync.OnceFunc(func() { g.token <- struct{}{} }), true
	case <-closing:
		return nil, false
	}
}

// process processes a group of so many items, and calls leave at the end, or after
// overlapAfter.
func (g *groupGate) process(items int, process, leave func()) {
	defer leave()
	if g == nil {
		process()
		return
	}
	usual := g.usual.Load()
	g.usual.Store(max(int64(items), usual-(usual+7)/8)) // smaller groups let it shrink by an eighth
	defer time.AfterFunc(overlapAfter, leave).Stop()
	begun := time.Now()
	g.processing.Add(1)
	process()
	g.processing.Add(-1)
	g.took.Store(int64(time.Since(begun)))
}

// gather waits shortly if it pays to wait for more items. Goroutines submit one
// item after another, so as many as were in a recent group are likely to come soon. It
// waits for at most twice the time that the last group took: long if the database is
// loaded, so that groups become large and cost it less, and shortly if it is not. It does not
// wait if the recent groups had one item, while another group is processed, or once isEnough
// reports that the group has so many items or is large otherwise.
func (g *groupGate) gather(isEnough func(items int) bool, closing <-chan struct{}) {
	if g == nil || g.processing.Load() > 0 {
		return
	}
	enough := int(min(g.usual.Load(), enoughItems))
	atMost := min(2*time.Duration(g.took.Load()), gatherAtMost)
	if atMost <= 0 || isEnough(enough) {
		return
	}
	// To look again from time to time costs less than to be woken by each item.
	ticker := time.NewTicker(max(atMost/8, time.Microsecond))
	defer ticker.Stop()
	for end := time.Now().Add(atMost); time.Now().Before(end) && !isEnough(enough); {
		select {
		case <-ticker.C:
		case <-closing:
			return
		}
	}
}
