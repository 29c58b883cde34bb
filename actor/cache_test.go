package actor

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// cacheUser puts a user with a reply of n bytes into the cache.
func cacheUser(c *Cache, p *Partition, user int64, n int) {
	c.put(p, &User{ID: user}, make([]byte, n), c.generation())
}

func ptr[T any](v T) *T { return &v }

func TestCache(t *testing.T) {
	t.Run("new_is_not_trusted", testCacheNew)
	t.Run("generations", testCacheGenerations)
	t.Run("evicts_least_recently_used", testCacheLRU)
	t.Run("user_too_large", testCacheUserTooLarge)
	t.Run("limits", testCacheLimits)
	t.Run("evicts_idle", testCacheIdle)
	t.Run("evicts_closed_partition", testCacheClosedPartition)
	t.Run("close", testCacheClose)
	t.Run("memory_per_user", testCacheMemoryPerUser)
	t.Run("memory_after_eviction", testCacheMemoryAfterEviction)
}

func testCacheNew(t *testing.T) {
	c := NewCache(roomy)
	defer c.Close()
	p := testPartition(t, newFakeStore(), c, 1)
	if cacheUser(c, p, 1, 1); c.Len() != 0 {
		t.Error("a user is cached before the cache is trusted")
	}
	c.SetTrusted(true)
	if cacheUser(c, p, 1, 1); c.reply(p, 1) == nil {
		t.Error("no user is cached when the cache is trusted")
	}
}

func testCacheGenerations(t *testing.T) {
	c := NewCache(roomy)
	defer c.Close()
	p := testPartition(t, newFakeStore(), c, 1)
	for i, change := range []func(){
		func() { c.SetTrusted(true) },
		func() { c.SetTrusted(false) },
		func() { c.SetTrusted(true) },
		func() { c.SetTrusted(false); c.SetTrusted(true) },
	} {
		generation := c.generation()
		change()
		if c.put(p, &User{ID: 1}, []byte{1}, generation); c.reply(p, 1) != nil {
			t.Errorf("after change %d a user is cached that was read before it", i)
		}
	}
	generation := c.generation()
	c.SetTrusted(true) // changes nothing
	if c.put(p, &User{ID: 1}, []byte{1}, generation); c.reply(p, 1) == nil {
		t.Error("SetTrusted(true) on a trusted cache evicts users")
	}
}

func testCacheLRU(t *testing.T) {
	for _, o := range []CacheOptions{
		{Users: 3, Bytes: 1 << 20, Idle: time.Hour},
		{Users: 1000, Bytes: 3 * (entryBytes + 100), Idle: time.Hour},
	} {
		c := testCache(t, o)
		p := testPartition(t, newFakeStore(), c, 1)
		for user := int64(1); user <= 3; user++ {
			cacheUser(c, p, user, 100)
		}
		c.reply(p, 1)
		cacheUser(c, p, 4, 100)
		cacheUser(c, p, 3, 100)
		cacheUser(c, p, 5, 100)
		for user, want := range map[int64]bool{1: false, 2: false, 3: true, 4: true, 5: true} {
			if got := c.reply(p, user) != nil; got != want {
				t.Errorf("%+v: user %d is cached: %t", o, user, got)
			}
		}
		if c.Len() != 3 || c.Bytes() != 3*(entryBytes+100) {
			t.Errorf("%d users in %d bytes", c.Len(), c.Bytes())
		}
	}
}

func testCacheUserTooLarge(t *testing.T) {
	c := testCache(t, CacheOptions{Users: 10, Bytes: 1000, Idle: time.Hour})
	p := testPartition(t, newFakeStore(), c, 1)
	cacheUser(c, p, 1, 100)
	cacheUser(c, p, 2, 100)
	cacheUser(c, p, 2, 1000)
	if c.reply(p, 1) == nil || c.reply(p, 2) != nil || c.Len() != 1 || c.Bytes() != entryBytes+100 {
		t.Errorf("%d users in %d bytes", c.Len(), c.Bytes())
	}
}

func testCacheLimits(t *testing.T) {
	for _, o := range []CacheOptions{
		{Users: 40_000, Bytes: 1 << 30, Idle: time.Hour},
		{Users: 1 << 30, Bytes: 64 << 20, Idle: time.Hour},
	} {
		c := testCache(t, o)
		if len(c.shards) != maxShards {
			t.Errorf("%d shards", len(c.shards))
		}
		p := testPartition(t, newFakeStore(), c, 1)
		reply, generation := make([]byte, 1300), c.generation()
		for user := range int64(80_000) {
			c.put(p, &User{ID: user * 7}, reply, generation)
		}
		used := max(float64(c.Len())/float64(o.Users), float64(c.Bytes())/float64(o.Bytes))
		if used > 1 || used < 0.97 {
			t.Errorf("%+v: %d users in %d bytes", o, c.Len(), c.Bytes())
		}
	}
}

func testCacheIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = 8 * time.Minute
		c := testCache(t, CacheOptions{Users: 10, Bytes: 1 << 20, Idle: idle})
		p := testPartition(t, newFakeStore(), c, 1)
		time.Sleep(30 * time.Second) // between two ticks
		cacheUser(c, p, 1, 1)
		cacheUser(c, p, 2, 1)
		time.Sleep(idle)
		synctest.Wait()
		if c.Len() != 2 {
			t.Errorf("%d users are left after exactly the idle time", c.Len())
		}
		c.reply(p, 2)
		time.Sleep(idle / 8)
		synctest.Wait()
		if c.reply(p, 1) != nil || c.Len() != 1 || c.Bytes() != entryBytes+1 {
			t.Errorf("%d users in %d bytes are left", c.Len(), c.Bytes())
		}
		for range 20 {
			c.reply(p, 2)
			time.Sleep(idle)
			if c.reply(p, 2) == nil {
				t.Fatal("a user that was read is evicted")
			}
		}
	})
}

func testCacheClosedPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testCache(t, roomy)
		old, other := testPartition(t, newFakeStore(), c, 1), testPartition(t, newFakeStore(), c, 1)
		for user := range int64(100) {
			cacheUser(c, old, user, 1)
			cacheUser(c, other, 100+user, 1)
		}
		old.Stop()
		next := testPartition(t, newFakeStore(), c, 1)
		cacheUser(c, next, 1, 1)
		if c.reply(old, 2) != nil || c.reply(next, 2) != nil || c.reply(old, 1) != nil || c.reply(next, 1) == nil {
			t.Error("users are found in a partition that they are not cached for")
		}
		synctest.Wait()
		cacheUser(c, old, 2, 1) // by a task that is still in progress
		if c.Len() != 101 || c.reply(other, 100) == nil || c.reply(next, 1) == nil {
			t.Errorf("%d users", c.Len())
		}
	})
}

func testCacheClose(t *testing.T) {
	c := testCache(t, CacheOptions{Users: 1, Bytes: 1 << 20, Idle: time.Second})
	p := testPartition(t, newFakeStore(), c, 1)
	c.Close()
	c.Close()
	cacheUser(c, p, 1, 1)
	cacheUser(c, p, 2, 1)
	if c.Len() != 1 {
		t.Errorf("%d users", c.Len())
	}
}

func testCacheMemoryPerUser(t *testing.T) {
	users := 25_000
	if os.Getenv("GLOTPOD_IDENT_TEST_LONG") != "" {
		users = 100_000
	}
	for _, size := range []int{0, 100, 300, 1025} {
		c := testCache(t, CacheOptions{Users: users * 11 / 10, Bytes: 1 << 40, Idle: time.Hour})
		p := testPartition(t, newFakeStore(), c, 1)
		before := heap()
		cacheMany(c, p, int64(users), size)
		each := float64(heap()-before)/float64(users) - float64(size)
		t.Logf("replies of %d bytes: %.0f more bytes for each user", size, each)
		// The memory block of a reply is up to an eighth larger than the reply.
		if c.Len() != users || each > entryBytes+float64(size)/8 {
			t.Errorf("%d users, %.0f bytes in addition to %d for each", c.Len(), each, size)
		}
		runtime.KeepAlive(c)
	}
}

func testCacheMemoryAfterEviction(t *testing.T) {
	const users = 130_000 // more than freeMemoryFrom bytes
	synctest.Test(t, func(t *testing.T) {
		c := testCache(t, CacheOptions{Users: users * 11 / 10, Bytes: 1 << 40, Idle: time.Minute})
		p := testPartition(t, newFakeStore(), c, 1)
		before := heap()
		cacheMany(c, p, users, 200)
		if c.Len() != users {
			t.Fatalf("%d users", c.Len())
		}
		full := heap() - before
		time.Sleep(2 * time.Minute) // no user is read
		synctest.Wait()
		left := heap() - before
		t.Logf("%s, then %s", mebibytes(full), mebibytes(left))
		if c.Len() != 0 || left > full/100 {
			t.Errorf("%d users; %s are left of %s", c.Len(), mebibytes(left), mebibytes(full))
		}
		runtime.KeepAlive(c)
	})
}

func TestCacheIndex(t *testing.T) {
	t.Run("keys", testIndexKeys)
	t.Run("user_with_a_write", testIndexUserWithWrite)
}

func testIndexKeys(t *testing.T) {
	c := NewCache(roomy)
	defer c.Close()
	c.SetTrusted(true)
	p := testPartition(t, newFakeStore(), c, 1)
	put := func(u User) { c.put(p, &u, UserReply(&u), c.generation()) }
	found := func(l Lookup) int64 {
		id := c.FindID(&l)
		if id == 0 || p.GetCached(id, &l) == nil {
			return 0
		}
		return id
	}
	email := func(email string) int64 { return found(Lookup{Email: &email}) }
	github := func(id int64) int64 { return found(Lookup{GitHubID: &id}) }
	facebook := func(id int64) int64 { return found(Lookup{FacebookID: &id}) }

	put(User{ID: 1, Email: "a", GitHub: &Account{ID: 7}})
	put(User{ID: 2, Email: "b", GitHub: &Account{ID: 8}, Facebook: &Account{ID: 7}})
	if email("a") != 1 || github(7) != 1 || facebook(7) != 2 || github(8) != 2 || email("c") != 0 || github(0) != 0 || facebook(8) != 0 {
		t.Error("the wrong users are found")
	}
	// User 2 gets the email of user 1. The cache sees the two changes in the other order.
	put(User{ID: 2, Email: "a", GitHub: &Account{ID: 8}})
	put(User{ID: 1, Email: "c", GitHub: &Account{ID: 7}})
	if email("a") != 2 || email("b") != 0 || email("c") != 1 || facebook(7) != 0 {
		t.Error("a user is found by its old keys")
	}
	// The user must match all fields of the lookup.
	if found(Lookup{Email: ptr("a"), GitHubID: ptr[int64](8)}) != 2 || found(Lookup{Email: ptr("a"), GitHubID: ptr[int64](7)}) != 0 {
		t.Error("a user is found that does not match all fields")
	}
	if found(Lookup{UserID: ptr[int64](2), Email: ptr("a")}) != 0 || found(Lookup{Email: ptr("a"), NoMatch: true}) != 0 {
		t.Error("a lookup by id, or one that no user can match, finds a user")
	}
	c.evict(p, 1)
	if email("c") != 0 || github(7) != 0 || email("a") != 2 {
		t.Error("an evicted user is found")
	}
	if c.SetTrusted(false); email("a") != 0 {
		t.Error("a user is found in a cache that is not trusted")
	}
	c.SetTrusted(true)
	if email("a") != 0 {
		t.Error("an evicted user is found")
	}
	for i := range c.index.shards {
		if s := &c.index.shards[i]; len(s.emails)+len(s.accounts) > 0 {
			t.Errorf("the index still has %v, %v", s.emails, s.accounts)
		}
	}
}

func testIndexUserWithWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.before = func(context.Context, int64, *Write) error { time.Sleep(time.Second); return nil }
		c := NewCache(roomy)
		defer c.Close()
		c.SetTrusted(true)
		p := testPartition(t, s, c, 10)
		u := User{ID: 1, Email: "a"}
		c.put(p, &u, UserReply(&u), c.generation())
		l := Lookup{Email: ptr("a")}
		if p.GetCached(1, &l) == nil {
			t.Fatal("the user is not cached")
		}
		if err := p.Write(&Write{UserID: 1}, func(Outcome, error) {}); err != nil {
			t.Fatal(err)
		}
		if p.GetCached(1, &l) != nil {
			t.Error("the user is found while a write is in progress")
		}
		p.Stop()
		if p.GetCached(1, &l) != nil {
			t.Error("the user is found after the partition was stopped")
		}
	})
}

// heap returns the size of the live heap in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// cacheMany puts n users into the cache, each with a reply of size bytes.
func cacheMany(c *Cache, p *Partition, n int64, size int) {
	reply, generation := make([]byte, size), c.generation()
	for user := range n {
		c.put(p, &User{ID: user + 1}, reply, generation)
	}
}

func mebibytes(n int64) string { return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20)) }
