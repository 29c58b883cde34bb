package commit

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/glotpod/ident/actor"
)

// A stage is what a pending write waits for, for people.
type stage int32

const (
	stageQueued stage = iota
	stageTurn
	stageAttempt
	stageBlocked
	stageAgain
)

var stageNames = [...]string{
	stageQueued:  "queued for the next transaction",
	stageTurn:    "behind another transaction of the partition",
	stageAttempt: "in a transaction",
	stageBlocked: "behind another transaction, which has locked or changed the user",
	stageAgain:   "before another attempt, since the last one failed",
}

// A stageValue is a stage that may be read while it is set. One goroutine at a time sets it.
type stageValue struct{ value atomic.Int32 }

// reach sets the stage. The reason why an attempt failed stays during the next one,
// so that it can be seen however short the pause between them is.
func (v *stageValue) reach(s stage) {
	if s >= stageBlocked || int32(s) > v.value.Load() {
		v.value.Store(int32(s))
	}
}

func (v *stageValue) name() string { return stageNames[v.value.Load()] }

func setStages(all []*pending, s stage) {
	for _, p := range all {
		p.stage.reach(s)
	}
}

// A userKey is a user of a partition.
type userKey struct {
	partition int
	user      int64
}

// A register has the pending writes for which a caller waits. There is one at most for each
// user of a lease. It is safe for concurrent use.
type register struct {
	mu    sync.Mutex // guards the following field
	users map[userKey]registered
}

type registered struct {
	pending *pending
	since   time.Time
}

func keyOf(p *pending) userKey { return userKey{p.lease.Partition, p.first().UserID} }

func (r *register) add(p *pending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users[keyOf(p)] = registered{p, time.Now()}
}

func (r *register) remove(p *pending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users[keyOf(p)].pending == p {
		delete(r.users, keyOf(p))
	}
}

// status returns what the pending write of a user waits for; "" if there is none.
func (r *register) status(partition int, userID int64) (stage string, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if found, ok := r.users[userKey{partition, userID}]; ok {
		stage, since = found.pending.stage.name(), found.since
	}
	return stage, since
}

// status returns whether a transaction of a partition is under way, and what waits for it.
func (t *turns) status(partition int) (s actor.CommitStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own := t.partitions[partition]; own != nil && own.busy {
		s.BusySince, s.Behind = own.busySince, len(own.waiting)
	}
	return s
}
