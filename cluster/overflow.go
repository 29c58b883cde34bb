package cluster

import (
	"math/rand/v2"
	"sync"
)

// An overflow knows of which users there are writes in their partition's queue that
// came by the shared queue and found the mailbox full. Until the last of them comes
// by the partition's queue, later ones have to go the same way, lest they overtake.
// That holds as long as the partition is held without a break. Where the last one is
// lost, since it has expired, the next one takes its place, after a detour. The zero
// overflow knows of none.
type overflow struct {
	mu   sync.Mutex      // guards the following field
	last map[int64]int64 // by user: the mark of the last such write
}

// turnHeader has the mark of a write that is put into the queue of its partition by
// the partition's owner.
const turnHeader = "ident-turn"

// has says whether there are such writes of a user.
func (o *overflow) has(user int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.last[user]
	return ok
}

// add notes that a write of the user will be put into the queue, and returns the
// mark that tells it from all others. It is not zero.
func (o *overflow) add(user int64) (mark int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last == nil {
		o.last = make(map[int64]int64)
	}
	mark = 1 + rand.Int64N(1<<62)
	o.last[user] = mark
	return mark
}

// remove notes that a write with a mark has come by the partition's queue.
func (o *overflow) remove(user, mark int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last[user] == mark {
		delete(o.last, user)
	}
}
