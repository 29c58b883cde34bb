package actor

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

func TestCacheUpdates(t *testing.T) {
	t.Run("after_a_write", testCacheAfterWrite)
	t.Run("after_distrust", testCacheAfterDistrust)
	t.Run("after_drain", testCacheAfterDrain)
	t.Run("user_given_to_a_write", func(t *testing.T) { synctest.Test(t, testCachedUserOfWrite) })
}

func testCacheAfterWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := errors.New("failed")
		for _, tc := range []struct {
			what        string
			name        int64
			before      error // that the store returns before it applies the write
			after       error // that the store returns after that
			want        string
			wantLookups int
		}{
			{"applied", 7, nil, nil, "7", 0},
			{"deleted", 0, nil, nil, "", 1},
			{"refused", 7, NoSuchUser, nil, "a", 0},
			{"replayed", 7, nil, errReplayed, "7", 1},
			{"failed", 7, failed, nil, "a", 1},
			{"failed when done", 7, nil, failed, "7", 1},
		} {
			s := newFakeStore()
			s.names[1] = "a"
			p := testPartition(t, s, testCache(t, roomy), 10)
			read(t, p, 1)
			s.before = func(context.Context, int64, *Write) error { return tc.before }
			s.after = func(context.Context, int64, *Write) error { return tc.after }
			write(t, p, 1, tc.name)
			s.before, s.after = nil, nil
			if got := read(t, p, 1); got != tc.want || s.finds() != 1+tc.wantLookups {
				t.Errorf("%s: %q, %d lookups; want %q, %d", tc.what, got, s.finds()-1, tc.want, tc.wantLookups)
			}
		}
	})
}

func testCacheAfterDistrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1], s.names[2], s.names[3] = "a", "a", "a"
		c := testCache(t, roomy)
		p := testPartition(t, s, c, 10)
		read(t, p, 3)
		s.before = func(context.Context, int64, *Write) error { return nil }
		s.after = func(ctx context.Context, _ int64, _ *Write) error { return takeAMillisecond(ctx) }
		first, names := make(chan string, 1), make(chan string, 3)
		p.Get(1, func(reply []byte, err error) { first <- nameIn(t, reply) })
		p.Write(&Write{UserID: 2, Digest: 2}, func(Outcome, error) {})
		synctest.Wait() // the store has read user 1 and written user 2
		for user := int64(1); user <= 3; user++ {
			s.foreign(user, "b")
		}
		c.SetTrusted(false)
		if c.Len() != 0 || c.Bytes() != 0 {
			t.Errorf("%d users in %d bytes", c.Len(), c.Bytes())
		}
		c.SetTrusted(true)
		for user := int64(1); user <= 3; user++ {
			p.Get(user, func(reply []byte, err error) { names <- nameIn(t, reply) })
		}
		if name := <-first; name != "a" {
			t.Errorf("the earlier read: %q", name)
		}
		for range 3 {
			if name := <-names; name != "b" {
				t.Errorf("a later read: %q", name)
			}
		}
	})
}

func testCacheAfterDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1] = "a"
		c := testCache(t, roomy)
		p := testPartition(t, s, c, 10)
		read(t, p, 1)
		c.Close() // so that the cache does not evict the user
		s.before = func(ctx context.Context, _ int64, w *Write) error {
			if w != nil {
				takeAMillisecond(ctx)
				return NoSuchUser // the user stays cached
			}
			return nil
		}
		p.Write(&Write{UserID: 1, Digest: 2}, func(Outcome, error) {})
		seen := ""
		p.Get(1, func(reply []byte, err error) { seen = nameIn(t, reply) })
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		p.Drain(cancelled)
		s.foreign(1, "by the next owner")
		if err := p.Drain(t.Context()); err != nil || seen != "by the next owner" {
			t.Errorf("%v; the read saw %q", err, seen)
		}
	})
}

func testCachedUserOfWrite(t *testing.T) {
	s := newFakeStore()
	var cached, stored []*User
	s.before = func(_ context.Context, id int64, w *Write) error {
		if w != nil {
			cached, stored = append(cached, w.Cached), append(stored, s.user(id))
		}
		return nil
	}
	c := testCache(t, roomy)
	p := testPartition(t, s, c, 10)
	write := func(digest int64) {
		t.Helper()
		done := make(chan error)
		if err := p.Write(&Write{UserID: 1, Digest: digest}, func(_ Outcome, err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the actor, which knows what it has written, ends
	}
	write(5) // the user is not cached yet
	write(6)
	write(7)
	c.SetTrusted(false)
	write(8)
	c.SetTrusted(true)
	read := make(chan []byte)
	if err := p.Get(1, func(reply []byte, _ error) { read <- reply }); err != nil {
		t.Fatal(err)
	}
	<-read
	write(9)
	for i, want := range []*User{nil, stored[1], stored[2], nil, stored[4]} {
		if got := cached[i]; !reflect.DeepEqual(got, want) {
			t.Errorf("write %d got the cached user %+v, want %+v", i+1, got, want)
		}
	}
}

// Memory is read only while the read lease stands, since another owner may have written.
func TestReadLease(t *testing.T) {
	bubble := func(name string, test func(*testing.T, *fakeStore, *Partition, *partition.ReadLease)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFakeStore()
				s.names[1] = "old"
				l := partition.NewReadLease(func() {})
				p := NewPartition(PartitionOptions{Store: s, Lease: partition.Lease{Epoch: 1}, ReadLease: l, Mailbox: 4, Cache: testCache(t, roomy), Fenced: func() {}})
				defer p.Stop()
				l.Extend(time.Now())
				read(t, p, 1)
				s.foreign(1, "new")
				if name := read(t, p, 1); name != "old" {
					t.Fatalf("the user is not cached: %s", name)
				}
				synctest.Wait()
				test(t, s, p, l)
				synctest.Wait()
			})
		})
	}
	bubble("no_reply_from_memory_after_its_end", func(t *testing.T, s *fakeStore, p *Partition, l *partition.ReadLease) {
		time.Sleep(partition.ReadFor)
		if p.GetCached(1, &Lookup{}) != nil {
			t.Error("the user is found in memory")
		}
		if name := read(t, p, 1); name != "new" {
			t.Errorf("read: %s", name)
		}
		l.Extend(time.Now())
		if before := s.finds(); read(t, p, 1) != "new" || s.finds() != before {
			t.Error("what was read meanwhile is not cached")
		}
		if p.GetCached(1, &Lookup{}) == nil {
			t.Error("the user is not found in memory")
		}
	})
	bubble("reads_that_wait_share_a_query", func(t *testing.T, s *fakeStore, p *Partition, _ *partition.ReadLease) {
		time.Sleep(partition.ReadFor)
		before := s.finds()
		for range 4 {
			p.Get(1, func([]byte, error) {})
		}
		if synctest.Wait(); s.finds() > before+2 {
			t.Errorf("%d queries", s.finds()-before)
		}
	})
	bubble("prefetch_reads_nothing_that_is_cached", func(t *testing.T, s *fakeStore, p *Partition, _ *partition.ReadLease) {
		time.Sleep(partition.ReadFor)
		before := s.finds()
		p.Prefetch(1)
		if synctest.Wait(); s.finds() != before {
			t.Error("it was read")
		}
	})
	bubble("a_commit_extends_it", func(t *testing.T, s *fakeStore, p *Partition, _ *partition.ReadLease) {
		time.Sleep(partition.ReadFor)
		if _, err := write(t, p, 1, 5); err != nil {
			t.Fatal(err)
		}
		if before := s.finds(); read(t, p, 1) != "5" || s.finds() != before {
			t.Error("the user is not read from memory")
		}
		time.Sleep(partition.ReadFor)
		if before := s.finds(); read(t, p, 1) != "5" || s.finds() == before {
			t.Error("the user is read from memory for too long")
		}
	})
	bubble("writes_decide_on_cached_users_after_its_end", func(t *testing.T, s *fakeStore, p *Partition, _ *partition.ReadLease) {
		time.Sleep(partition.ReadFor)
		w := &Write{UserID: 1, Digest: 5}
		p.Write(w, func(Outcome, error) {})
		if synctest.Wait(); w.Cached == nil || w.Cached.Name != "old" {
			t.Errorf("it decides on %v", w.Cached)
		}
	})
}

func TestPartition(t *testing.T) {
	t.Run("lease_lost", testPartitionFenced)
	t.Run("stop", testPartitionStop)
	t.Run("stop_with_expired_writes", testPartitionStopExpired)
	t.Run("drain", testPartitionDrain)
	t.Run("concurrent_use", testPartitionConcurrentUse)
}

func testPartitionFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1], s.names[2] = "a", "a"
		fenced := 0
		p := NewPartition(PartitionOptions{Store: s, Lease: partition.Lease{Epoch: 1}, ReadLease: standing(), Mailbox: 10, Cache: testCache(t, roomy), Fenced: func() { fenced++ }})
		defer p.Stop()
		read(t, p, 2)
		synctest.Wait()
		s.epoch = 2
		completed := make(chan error, 8)
		for user := int64(1); user <= 2; user++ {
			for range 2 {
				p.Write(&Write{UserID: user}, func(_ Outcome, err error) {
					if fenced != 1 {
						t.Errorf("completed after %d calls of Fenced", fenced)
					}
					completed <- err
				})
				p.Get(user, func(_ []byte, err error) { completed <- err })
			}
		}
		for range 8 {
			if err := <-completed; !errors.Is(err, ErrFenced) {
				t.Errorf("completed with %v", err)
			}
		}
		if err := p.Get(2, nil); !errors.Is(err, ErrStopped) {
			t.Errorf("a read: %v", err)
		}
		if err := p.Write(&Write{UserID: 3}, nil); !errors.Is(err, ErrStopped) {
			t.Errorf("a write: %v", err)
		}
		if err := p.Drain(t.Context()); err != nil || fenced != 1 {
			t.Errorf("%v; Fenced was called %d times", err, fenced)
		}
	})
}

func testPartitionStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPartition(t, newFakeStore(), testCache(t, roomy), 100)
		completed := 0
		var mu sync.Mutex
		complete := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			completed++
			if !errors.Is(err, ErrStopped) {
				t.Errorf("completed with %v", err)
			}
		}
		for i := range 100 {
			p.Write(&Write{UserID: int64(i % 3)}, func(_ Outcome, err error) { complete(err) })
			p.Get(int64(i%5), func(_ []byte, err error) { complete(err) })
		}
		p.Stop()
		p.Stop()
		if completed != 200 || p.Load().Actors != 0 {
			t.Errorf("%d completed, %d actors", completed, p.Load().Actors)
		}
		if err := p.Write(&Write{}, nil); !errors.Is(err, ErrStopped) {
			t.Error(err)
		}
	})
}

// testPartitionStopExpired: an expired write is the next owner's, as any other write.
func testPartitionStopExpired(t *testing.T) {
	for name, want := range map[string]error{"stopped": ErrStopped, "fenced": ErrFenced} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFakeStore()
				s.before = func(ctx context.Context, _ int64, _ *Write) error {
					time.Sleep(time.Second)
					return ctx.Err()
				}
				p := testPartition(t, s, nil, 100)
				var got []error
				for _, expires := range []time.Time{{}, time.Now().Add(time.Millisecond), time.Now().Add(time.Hour)} {
					if err := p.Write(&Write{UserID: 1, Expires: expires}, func(_ Outcome, err error) { got = append(got, err) }); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait() // the first is in progress
				if errors.Is(want, ErrFenced) {
					s.mu.Lock()
					s.epoch = 2
					s.mu.Unlock()
				} else {
					p.Stop()
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if !slices.Equal(got, []error{want, want, want}) {
					t.Errorf("the writes have %v", got)
				}
			})
		})
	}
}

func testPartitionDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		p := testPartition(t, s, testCache(t, roomy), 100)
		done := 0
		for range 10 {
			p.Write(&Write{UserID: 1, Digest: 1}, func(_ Outcome, err error) {
				if err == nil {
					done++
				}
			})
		}
		p.Get(1, func(reply []byte, err error) {
			if nameIn(t, reply) == "1" {
				done++
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond/2)
		defer cancel()
		if err := p.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("too early: %v", err)
		}
		if err := p.Get(2, nil); !errors.Is(err, ErrStopped) {
			t.Errorf("a read: %v", err)
		}
		if err := p.Drain(t.Context()); err != nil || done != 11 || p.Load().Actors != 0 {
			t.Errorf("%v, %d done, %d actors", err, done, p.Load().Actors)
		}
		p.Drain(t.Context())
		p.Stop()
	})
}

func testPartitionConcurrentUse(t *testing.T) {
	c := testCache(t, roomy)
	for range 50 {
		s := newFakeStore()
		s.before = func(ctx context.Context, _ int64, _ *Write) error { return ctx.Err() }
		p := NewPartition(PartitionOptions{Store: s, Lease: partition.Lease{Epoch: 1}, ReadLease: standing(), Mailbox: 4, Cache: c, Fenced: func() {}})
		var running, completed sync.WaitGroup
		for i := range 10 {
			running.Go(func() {
				for user := range int64(20) {
					completed.Add(2)
					if p.Write(&Write{UserID: user, Digest: 1}, func(Outcome, error) { completed.Done() }) != nil {
						completed.Done()
					}
					if p.Get(user, func([]byte, error) { completed.Done() }) != nil {
						completed.Done()
					}
				}
				if i%2 == 0 {
					p.Stop()
				} else if err := p.Drain(t.Context()); err != nil {
					t.Error(err)
				}
				if p.Load().Actors != 0 {
					t.Error("an actor is left")
				}
			})
		}
		running.Go(func() {
			for range 20 {
				c.SetTrusted(false)
				c.SetTrusted(true)
			}
		})
		running.Wait()
		completed.Wait()
	}
}
