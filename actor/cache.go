package actor

import (
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// CacheOptions bounds a cache. The bounds are over all partitions that share it.
type CacheOptions struct {
	Users int           // the most users, at least 1
	Bytes int64         // the most bytes, as [Cache.Bytes] counts them
	Idle  time.Duration // how long a user is kept who is not asked for, at least; at most an eighth longer
}

// A Cache keeps users in memory, so that reading them needs no store: such a
// user is warm. When it is full, those go who were not asked for the longest.
//
// A user is warm in the partition whose actor has read or written the user last,
// until that partition ends; the cache is as true as the partition's lease is. It
// is safe for concurrent use, by any number of partitions. A nil *Cache keeps
// nobody.
type Cache struct {
	idle   time.Duration
	shards []shard       // a user is in one of them, by id
	index  *index        // whom the users' other keys lead to
	clock  atomic.Int64  // what a shard takes for the time: rises ageIdle times in idle
	wake   chan struct{} // holds a token while there may be users of a partition that has ended

	trustMu      sync.Mutex    // held by who changes the following field
	trustChanges atomic.Uint64 // how often it was changed whether the cache is trusted: odd, it is

	hits atomic.Int64 // that were answered

	cancel context.CancelFunc
	closed chan struct{} // closed when sweep has ended
}

const (
	// ageIdle is the age on the cache's clock at which a user is idle.
	ageIdle = 8

	// A cache has as many shards as have at least so many users and bytes each,
	// so that each can be bounded by itself, but no more than maxShards.
	minShardUsers = 512
	minShardBytes = 1 << 20
	maxShards     = 64

	// freeMemoryFrom is how many bytes have to have been kept, and three quarters of
	// them let go, for memory to be given back to the system at once.
	freeMemoryFrom = 64 << 20
)

// NewCache returns an empty cache, which is not trusted yet. It has to be closed.
func NewCache(o CacheOptions) *Cache {
	n := 1
	for 2*n <= maxShards && o.Users/(2*n) >= minShardUsers && o.Bytes/int64(2*n) >= minShardBytes {
		n *= 2
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cache{idle: o.Idle, shards: make([]shard, n), index: newIndex(), wake: make(chan struct{}, 1), cancel: cancel, closed: make(chan struct{})}
	for i := range c.shards {
		c.shards[i].init(o.Users/n, o.Bytes/int64(n), c.index)
	}
	go c.evictLoop(ctx)
	return c
}

// Close ends what the cache does by itself, which is to forget idle users. It may
// be called more than once.
func (c *Cache) Close() {
	c.cancel()
	<-c.closed
}

// SetTrusted says whether the cache may be used. When SetTrusted(false) is called, nothing
// more is answered from it, and it forgets everybody; nothing that was asked of
// the store before is kept afterwards. A read that begins after SetTrusted(false) thus
// sees what another program had written before it.
func (c *Cache) SetTrusted(yes bool) {
	c.trustMu.Lock()
	defer c.trustMu.Unlock()
	if c.trusted() == yes {
		return
	}
	c.trustChanges.Add(1)
	if yes {
		return
	}
	for i := range c.shards {
		c.shards[i].clear()
	}
}

// Trusted says whether the cache may be used now.
func (c *Cache) Trusted() bool { return c.trusted() }

// Hits says how many reads were answered from the cache.
func (c *Cache) Hits() int64 { return c.hits.Load() }

// Len says how many users are warm.
func (c *Cache) Len() int {
	n := 0
	for i := range c.shards {
		users, _ := c.shards[i].size()
		n += users
	}
	return n
}

// Bytes says how many bytes the warm users take: those of their answers and
// emails, and 336 beside each.
func (c *Cache) Bytes() int64 {
	n := int64(0)
	for i := range c.shards {
		_, bytes := c.shards[i].size()
		n += bytes
	}
	return n
}

// generation says how often it was changed whether the cache is trusted. Who
// wants to keep what the store says takes it before the store is asked.
func (c *Cache) generation() uint64 {
	if c == nil {
		return 0
	}
	return c.trustChanges.Load()
}

// trusted says whether the cache may be used now.
func (c *Cache) trusted() bool { return c.generation()%2 == 1 }

// trustedSince says whether the cache has been trusted ever since it was of the given
// generation.
func (c *Cache) trustedSince(generation uint64) bool {
	return generation%2 == 1 && c.generation() == generation
}

// entryOf returns a user who is entryOf in p, nil for others.
func (c *Cache) entryOf(p *Partition, userID int64) *entry {
	if c == nil {
		return nil
	}
	s := c.shard(userID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.trusted() || p.closed.Load() {
		return nil
	}
	return s.getLocked(p, userID, c.clock.Load())
}

// reply returns the answer about a user who is warm in p, nil for others.
func (c *Cache) reply(p *Partition, userID int64) []byte {
	if e := c.entryOf(p, userID); e != nil {
		c.hits.Add(1)
		return e.reply
	}
	return nil
}

// FindID returns the id of a warm user who may be the one whom l describes, though
// l does not name the id; 0 if there is none.
func (c *Cache) FindID(l *Lookup) (userID int64) {
	if c == nil || l.UserID != nil || l.NoMatch {
		return 0
	}
	return c.index.find(l)
}

// matchingReply is get, for a user whom l describes.
func (c *Cache) matchingReply(p *Partition, userID int64, l *Lookup) []byte {
	s := c.shard(userID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.users[userID]; !c.trusted() || p.closed.Load() || e == nil || !e.keys.matches(l) {
		return nil
	}
	if e := s.getLocked(p, userID, c.clock.Load()); e != nil {
		c.hits.Add(1)
		return e.reply
	}
	return nil
}

// user returns a user who is warm in p, nil for others.
func (c *Cache) user(p *Partition, userID int64) *User {
	e := c.entryOf(p, userID)
	if e == nil {
		return nil
	}
	u, err := userInReply(e.reply)
	if err != nil {
		return nil // AnswerUser has worded something else: the store has it
	}
	u.Version = e.version
	return u
}

// put makes a user warm in p, if the cache has been trusted since it was of the
// given generation. It keeps a copy of answer, which is about that user.
func (c *Cache) put(p *Partition, u *User, answer []byte, generation uint64) {
	if c == nil {
		return
	}
	s := c.shard(u.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evictLocked(p, u.ID)
	// Trust changes the generation, and a partition ends, before the shard is
	// cleared of what must not stay; that is to come if it is not seen here.
	if c.trustedSince(generation) && !p.closed.Load() {
		s.putLocked(p, u, answer, c.clock.Load())
	}
}

// evict makes a user passive who may be warm in p.
func (c *Cache) evict(p *Partition, userID int64) {
	if c == nil {
		return
	}
	s := c.shard(userID)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evictLocked(p, userID)
}

// shard returns the shard that a user is in. Ids that follow each other are
// spread evenly.
func (c *Cache) shard(userID int64) *shard {
	const golden = 0x9e3779b97f4a7c15
	return &c.shards[uint64(userID)*golden>>32%uint64(len(c.shards))]
}

// onPartitionClosed has the users who were warm in a partition that is over let go
// soon.
func (c *Cache) onPartitionClosed() {
	if c == nil {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// evictLoop lets go who is idle, or was warm in a partition that has ended.
func (c *Cache) evictLoop(ctx context.Context) {
	defer close(c.closed)
	ticker := time.NewTicker(c.idle / ageIdle)
	defer ticker.Stop()
	var most int64 // bytes since memory was given back
	for {
		var ended bool
		select {
		case <-ticker.C:
			c.clock.Add(1)
		case <-c.wake:
			ended = true
		case <-ctx.Done():
			return
		}
		// What was last used at this time, or before, has been idle for long
		// enough: by one more, as the clock may have been about to rise.
		idle := c.clock.Load() - ageIdle - 1
		most = max(most, c.Bytes())
		for i := range c.shards {
			c.shards[i].evictIdle(idle, ended)
		}
		c.index.shrink()
		if left := c.Bytes(); most >= freeMemoryFrom && left <= most/4 {
			debug.FreeOSMemory() // by itself, the runtime takes minutes
			most = left
		}
	}
}
