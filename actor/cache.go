package actor

import (
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/glotpod/ident/cluster/wait"
)

// CacheOptions are the limits of a cache. All partitions that share it count together.
type CacheOptions struct {
	Users int           // maximum number of users, at least 1
	Bytes int64         // maximum size in bytes, as [Cache.Bytes] counts them
	Idle  time.Duration // a user that is not used for this time, or up to an eighth longer, is evicted
}

// A Cache keeps users in memory, so that they can be read without the store. When it is
// full, it evicts the least recently used user.
//
// A user is cached for one partition: the one whose actor last read or wrote it, and only
// until that partition ends. The cached user is up to date as long as the partition's
// lease is valid. So replies are made from it only while the partition's read lease stands; what
// writes decide on it is checked when they are committed. A Cache is safe for concurrent use by any number of partitions. A nil
// *Cache is always empty.
type Cache struct {
	idle   time.Duration
	shards []shard      // the user id selects the shard
	index  *index       // finds users by other keys than the id
	clock  atomic.Int64 // the time for shards; increases ageIdle times per idle
	wake   wait.Signal  // set while users of a closed partition may still be cached

	trustMu      sync.Mutex    // serializes changes of trustChanges
	trustChanges atomic.Uint64 // number of changes between trusted and not trusted; odd: trusted

	hits atomic.Int64 // reads answered from the cache

	cancel context.CancelFunc
	closed chan struct{} // closed when evictLoop has returned
}

const (
	// ageIdle is how many ticks of the cache's clock make a user idle.
	ageIdle = 8

	// Each shard gets an equal part of the limits. A cache has as many shards as
	// possible, up to maxShards, if each can have at least this many users and bytes.
	minShardUsers = 512
	minShardBytes = 1 << 20
	maxShards     = 64

	// If the cache had at least this many bytes and has evicted three quarters of them,
	// it returns memory to the operating system at once.
	freeMemoryFrom = 64 << 20
)

// NewCache returns an empty cache that is not trusted yet. The caller must close it.
func NewCache(o CacheOptions) *Cache {
	n := 1
	for 2*n <= maxShards && o.Users/(2*n) >= minShardUsers && o.Bytes/int64(2*n) >= minShardBytes {
		n *= 2
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cache{idle: o.Idle, shards: make([]shard, n), index: newIndex(), wake: wait.NewSignal(), cancel: cancel, closed: make(chan struct{})}
	for i := range c.shards {
		c.shards[i].init(o.Users/n, o.Bytes/int64(n), c.index)
	}
	go c.evictLoop(ctx)
	return c
}

// Close ends the goroutine that evicts idle users. It may be called more than once.
func (c *Cache) Close() {
	c.cancel()
	<-c.closed
}

// SetTrusted sets whether the cache may be used. SetTrusted(false) evicts all users. From
// then on nothing is answered from the cache, and no result of a query that began
// before the call is ever added. Therefore a read that begins after SetTrusted(false) sees
// what another program has written before that call.
func (c *Cache) SetTrusted(trusted bool) {
	c.trustMu.Lock()
	defer c.trustMu.Unlock()
	if c.Trusted() == trusted {
		return
	}
	c.trustChanges.Add(1)
	if trusted {
		return
	}
	for i := range c.shards {
		c.shards[i].clear()
	}
}

// Trusted reports whether the cache may be used now.
func (c *Cache) Trusted() bool { return c.generation()%2 == 1 }

// Hits returns how many reads were answered from the cache.
func (c *Cache) Hits() int64 { return c.hits.Load() }

// Len returns the number of cached users.
func (c *Cache) Len() int {
	n := 0
	for i := range c.shards {
		users, _ := c.shards[i].size()
		n += users
	}
	return n
}

// Bytes returns the size of the cached users in bytes: the encoded reply and the email of
// each, and 336 bytes of overhead.
func (c *Cache) Bytes() int64 {
	n := int64(0)
	for i := range c.shards {
		_, bytes := c.shards[i].size()
		n += bytes
	}
	return n
}

// generation returns a number that changes whenever SetTrusted changes something. To
// put the result of a query into the cache, take the generation before the query.
func (c *Cache) generation() uint64 {
	if c == nil {
		return 0
	}
	return c.trustChanges.Load()
}

// trustedSince reports whether the cache was trusted at the given generation and has been
// since.
func (c *Cache) trustedSince(generation uint64) bool {
	return generation%2 == 1 && c.generation() == generation
}

// entryOf returns the entry of a user that is cached for p, else nil.
func (c *Cache) entryOf(p *Partition, userID int64) *entry {
	if c == nil {
		return nil
	}
	s := c.shard(userID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.Trusted() || p.closed.Load() {
		return nil
	}
	return s.getLocked(p, userID, c.clock.Load())
}

// reply returns the encoded reply with a user that is cached for p and may be read, else nil.
func (c *Cache) reply(p *Partition, userID int64) []byte {
	if e := c.entryOf(p, userID); e != nil && p.o.ReadLease.Stands() {
		c.hits.Add(1)
		return e.reply
	}
	return nil
}

// FindID finds a cached user by the email or a service id in l. The user may not match l
// completely: [Partition.GetCached] checks that. FindID returns 0 if there is none, or
// if l has a user id.
func (c *Cache) FindID(l *Lookup) (userID int64) {
	if c == nil || l.UserID != nil || l.NoMatch {
		return 0
	}
	return c.index.find(l)
}

// matchingReply is reply for a user that also matches l.
func (c *Cache) matchingReply(p *Partition, userID int64, l *Lookup) []byte {
	s := c.shard(userID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.users[userID]; !c.Trusted() || p.closed.Load() || e == nil || !e.keys.matches(l) {
		return nil
	}
	if e := s.getLocked(p, userID, c.clock.Load()); e != nil && p.o.ReadLease.Stands() {
		c.hits.Add(1)
		return e.reply
	}
	return nil
}

// user returns a user that is cached for p, else nil.
func (c *Cache) user(p *Partition, userID int64) *User {
	e := c.entryOf(p, userID)
	if e == nil {
		return nil
	}
	u, err := userInReply(e.reply)
	if err != nil {
		return nil // not encoded by UserReply: the store will read the user
	}
	u.Version = e.version
	return u
}

// put caches a user for p, if the cache has been trusted since the given generation. It
// copies reply, the encoded reply with that user.
func (c *Cache) put(p *Partition, u *User, reply []byte, generation uint64) {
	if c == nil {
		return
	}
	s := c.shard(u.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evictLocked(p, u.ID)
	// SetTrusted changes the generation before it clears the shards, and a partition
	// sets closed before its users are evicted. So a change that is not visible here will
	// still remove this entry.
	if c.trustedSince(generation) && !p.closed.Load() {
		s.putLocked(p, u, reply, c.clock.Load())
	}
}

// evict removes a user if it is cached for p.
func (c *Cache) evict(p *Partition, userID int64) {
	if c == nil {
		return
	}
	s := c.shard(userID)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evictLocked(p, userID)
}

// shard returns the shard of a user id. Consecutive ids are spread evenly.
func (c *Cache) shard(userID int64) *shard {
	const golden = 0x9e3779b97f4a7c15
	return &c.shards[uint64(userID)*golden>>32%uint64(len(c.shards))]
}

// onPartitionClosed makes evictLoop evict the users of closed partitions soon.
func (c *Cache) onPartitionClosed() {
	if c == nil {
		return
	}
	c.wake.Notify()
}

// evictLoop evicts users that are idle, and users of closed partitions.
func (c *Cache) evictLoop(ctx context.Context) {
	defer close(c.closed)
	ticker := time.NewTicker(c.idle / ageIdle)
	defer ticker.Stop()
	var peak int64 // maximum of Bytes since memory was returned to the system
	for {
		var closed bool // a partition was closed
		select {
		case <-ticker.C:
			c.clock.Add(1)
		case <-c.wake:
			closed = true
		case <-ctx.Done():
			return
		}
		// Entries last used at this time or before are idle. One tick is added
		// because an entry may have been used just before the clock increased.
		idle := c.clock.Load() - ageIdle - 1
		peak = max(peak, c.Bytes())
		for i := range c.shards {
			c.shards[i].evict(idle, closed)
		}
		c.index.shrink()
		if left := c.Bytes(); peak >= freeMemoryFrom && left <= peak/4 {
			debug.FreeOSMemory() // the runtime alone would take minutes
			peak = left
		}
	}
}
