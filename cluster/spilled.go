package cluster

import (
	"math/rand/v2"
	"sync"
)

// spillHeader has the mark of a spilled write.
const spillHeader = "ident-turn"

// spilledWrites knows the users of one partition that have spilled writes: writes that
// came by the shared queue when the user's mailbox was full, and that this instance then
// put into the partition's queue. Until the last spilled write of a user comes out of the
// queue, later writes that come by the shared queue are spilled as well, so that they do
// not overtake.
//
// This holds as long as the partition is served without a break. If the last spilled
// write is lost because it expired in the queue, the next write of the user is spilled
// and takes its place.
type spilledWrites struct {
	mu   sync.Mutex      // guards the following field
	last map[int64]int64 // by user: the mark of the last spilled write
}

// has reports whether a user has spilled writes.
func (s *spilledWrites) has(user int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.last[user]
	return ok
}

// add notes that a write of the user is about to be spilled. It returns a mark that
// identifies the write, which is not zero.
func (s *spilledWrites) add(user int64) (mark int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = make(map[int64]int64)
	}
	mark = 1 + rand.Int64N(1<<62)
	s.last[user] = mark
	return mark
}

// remove notes that a spilled write has come out of the partition's queue.
func (s *spilledWrites) remove(user, mark int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last[user] == mark {
		delete(s.last, user)
	}
}
