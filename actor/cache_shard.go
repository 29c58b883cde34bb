package actor

import (
	"slices"
	"strings"
	"sync"
)

// A shard is a part of a cache with its own lock and its own limits.
type shard struct {
	maxUsers int
	maxBytes int64
	index    *index

	mu    sync.Mutex // guards the following fields, and all entries
	users map[int64]*entry
	peak  int   // maximum of len(users) since the map was made; the map has memory for this many
	lru   entry // list of entries: next is the most recently used one, prev the least recently used one
	bytes int64
}

// An entry is a cached user.
type entry struct {
	partition  *Partition // that the user is cached for
	userID     int64
	reply      []byte // to a get, encoded; shared, never changed
	keys       lookupKeys
	version    Version
	lastUsed   int64 // on the cache's clock
	prev, next *entry
}

// entryBytes is roughly the memory of an entry without its reply and its email: 128
// bytes for the entry, 20 to 40 in the map, up to 140 in the index, and the unused
// end of the memory block that holds the reply.
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

// getLocked returns the entry of a user that is cached for p, else nil. Its reply and
// version may be read without the lock.
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

// putLocked adds a user that is not cached for p, and evicts other users if the shard is
// over its limits then.
func (s *shard) putLocked(p *Partition, u *User, reply []byte, now int64) {
	if old := s.users[u.ID]; old != nil {
		s.removeLocked(old) // cached for a former owner of this partition
	}
	k := keysOf(u)
	k.email = strings.Clone(k.email) // the string may keep a larger buffer alive
	e := &entry{partition: p, userID: u.ID, reply: slices.Clip(slices.Clone(reply)), keys: k, version: u.Version, lastUsed: now}
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

// evict removes the entries last used at the time idle or before. If a partition was
// closed, it also removes the entries of closed partitions.
func (s *shard) evict(idle int64, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.lru.prev; e != &s.lru && (closed || e.lastUsed <= idle); {
		prev := e.prev
		if e.lastUsed <= idle || e.partition.closed.Load() {
			s.removeLocked(e)
		}
		e = prev
	}
	s.shrinkLocked()
}

// shrinkLocked copies the users into a smaller map if the map is much too large for
// them. A Go map does not shrink by itself.
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
