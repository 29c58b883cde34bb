package store

import (
	"context"
	"time"
)

// A turn lets one gatherer at a time have a group done, so that what comes
// meanwhile makes one group and not several small ones, each of which costs the
// database as much as a large one. Where a group takes long, another one may be
// done beside it.
type turn struct {
	token chan struct{} // is in it while nobody has the turn
}

// overlapAfter is how long a group is waited for.
const overlapAfter = 25 * time.Millisecond

func newTurn() *turn {
	t := &turn{make(chan struct{}, 1)}
	t.token <- struct{}{}
	return t
}

// take waits for the turn, and returns what gives it back. It waits no longer
// than overlapAfter, or until ctx is done.
func (t *turn) take(ctx context.Context) (giveBack func()) {
	if t == nil {
		return func() {}
	}
	select {
	case <-t.token:
		return func() { t.token <- struct{}{} }
	default:
	}
	wait := time.NewTimer(overlapAfter)
	defer wait.Stop()
	select {
	case <-t.token:
		return func() { t.token <- struct{}{} }
	case <-wait.C:
	case <-ctx.Done():
	}
	return func() {}
}
