package actor

import (
	"slices"
	"strings"
	"sync"
)

// A shard is a part of a cache that bounds and locks its users by itself.
type shard struct {
	maxUsers int
	maxBytes int64
	index    *index

	mu    sync.Mutex // guards the following fields, and all entries
	users map[int64]*entry
	peak  int   // users since the map was made: it has memory for so many
	lru   entry // its next was used last, and its prev longest ago
	bytes int64
}

// An entry is a user who is warm.
type entry struct {
	partition  *Partition // in which the user is warm
	userID     int64
	reply      []byte // to a get; shared, never changed
	keys       lookupKeys
	version    Version
	lastUsed   int64 // when, on the cache's clock
	prev, next *entry
}

// entryBytes is about what an entry takes beside its answer and its email: 128
// bytes itself, 20 to 40 in the map, up to 140 in the index, and what its answer's
// memory is larger than the answer.
const entryBytes = 336

func (e *entry) bytes() int64 { return entryBytes + int64(len(e.reply)+len(e.keys.email)) }

func (s *shard) init(maxUsers int, maxBytes int64, x *index) {
	s.maxUsers, s.maxBytes, s.index = maxUsers, maxBytes, x
	s.clearLocked()
}

func (s *shard) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clearLocked()
}

func (s *shard) clearLocked() {
	for _, e := range s.users {
		s.index.remove(&e.keys, e.userID)
	}
	s.users, s.peak, s.bytes = make(map[int64]*entry), 0, 0
	s.lru.prev, s.lru.next = &s.lru, &s.lru
}

func (s *shard) size() (users int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.users), s.bytes
}

// getLocked returns a user who is warm in p, nil for others. Who has it may read its
// answer and version without the lock.
func (s *shard) getLocked(p *Partition, userID, now int64) *entry {
	e := s.users[userID]
	if e == nil || e.partition != p {
		return nil
	}
	e.lastUsed = now
	if s.lru.next != e {
		e.unlink()
		e.linkAfter(&s.lru)
	}
	return e
}

// putLocked adds a user who is not there yet in p, and makes room.
func (s *shard) putLocked(p *Partition, u *User, answer []byte, now int64) {
	if old := s.users[u.ID]; old != nil {
		s.removeLocked(old) // of a partition that was the same one's before
	}
	k := keysOf(u)
	k.email = strings.Clone(k.email) // which may be part of something larger
	e := &entry{partition: p, userID: u.ID, reply: slices.Clip(slices.Clone(answer)), keys: k, version: u.Version, lastUsed: now}
	if e.bytes() > s.maxBytes {
		return
	}
	e.linkAfter(&s.lru)
	s.users[u.ID] = e
	s.index.add(&e.keys, u.ID)
	s.bytes += e.bytes()
	for len(s.users) > s.maxUsers || s.bytes > s.maxBytes {
		s.removeLocked(s.lru.prev)
	}
	s.peak = max(s.peak, len(s.users))
}

func (s *shard) evictLocked(p *Partition, userID int64) {
	if e := s.users[userID]; e != nil && e.partition == p {
		s.removeLocked(e)
	}
}

func (s *shard) removeLocked(e *entry) {
	e.unlink()
	delete(s.users, e.userID)
	s.index.remove(&e.keys, e.userID)
	s.bytes -= e.bytes()
}

// evictIdle removes the users who were last used at the time idle or before, and,
// where a partition has ended, those who were warm in such a one.
func (s *shard) evictIdle(idle int64, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.lru.prev; e != &s.lru && (ended || e.lastUsed <= idle); {
		before := e.prev
		if e.lastUsed <= idle || e.partition.closed.Load() {
			s.removeLocked(e)
		}
		e = before
	}
	s.shrinkLocked()
}

// shrinkLocked gives back the memory of a map that has become much too large:
// it does not shrink by itself.
func (s *shard) shrinkLocked() {
	if s.peak <= 64 || len(s.users) > s.peak/4 {
		return
	}
	users := make(map[int64]*entry, len(s.users))
	for id, e := range s.users {
		users[id] = e
	}
	s.users, s.peak = users, len(users)
}

func (e *entry) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

func (e *entry) linkAfter(ring *entry) {
	e.prev, e.next = ring, ring.next
	e.prev.next, e.next.prev = e, e
}
