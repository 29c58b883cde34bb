package batch

import "time"

// A groupGate lets one worker at a time process a group. If a group takes long, another
// one may be processed beside it.
type groupGate struct {
	token chan struct{} // holds one value while the gate is free
}

// overlapAfter bounds how long a worker waits for the group of another one.
const overlapAfter = 25 * time.Millisecond

func newGroupGate() *groupGate {
	g := &groupGate{make(chan struct{}, 1)}
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
