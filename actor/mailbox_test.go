package actor

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestMailbox(t *testing.T) {
	t.Run("order", testMailboxOrder)
	t.Run("full", testMailboxFull)
	t.Run("full_during_a_batch", testMailboxFullDuringBatch)
	t.Run("full_for_reads", testMailboxFullForReads)
	t.Run("never_full_for_the_partition_queue", testMailboxFromQueue)
	t.Run("reads_between_writes", testMailboxReadsBetweenWrites)
	t.Run("batch_of_writes", testMailboxBatch)
	t.Run("one_write_fails", testMailboxOneWriteFails)
	t.Run("expired_writes_are_dropped", testMailboxExpired)
	t.Run("load_of_a_user", testMailboxLoadOfUser)
}

func testMailboxLoadOfUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.before = func(context.Context, int64, *Write) error {
			time.Sleep(time.Minute)
			return nil
		}
		p := testPartition(t, s, testCache(t, roomy), 100)
		begun := time.Now()
		for i := range 3 {
			if err := p.Write(&Write{UserID: 1, Digest: int64(i)}, func(Outcome, error) {}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		p.Get(1, func([]byte, error) {})
		if got, want := p.UserLoad(1), (UserLoad{InProgress: 1, Waiting: 3, Writes: 3, Oldest: begun}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		time.Sleep(time.Minute)
		if got := p.UserLoad(1); got.InProgress != 3 || got.Oldest != begun.Add(time.Second) {
			t.Errorf("later: %+v", got)
		}
		time.Sleep(10 * time.Minute)
		if got := p.UserLoad(1); got != (UserLoad{Cached: true}) {
			t.Errorf("at the end: %+v", got)
		}
		if got := p.UserLoad(2); got != (UserLoad{}) {
			t.Errorf("of another user: %+v", got)
		}
	})
}

func testMailboxExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.before = func(_ context.Context, _ int64, w *Write) error {
			time.Sleep(time.Second)
			return nil
		}
		p := testPartition(t, s, nil, 100)
		var got []error
		in := func(d time.Duration) time.Time { return time.Now().Add(d) }
		// Each write that is not dropped takes a second.
		for i, expires := range []time.Time{in(time.Millisecond), in(time.Millisecond), in(time.Second - 1), {}, in(1500 * time.Millisecond), in(time.Minute)} {
			err := p.Write(&Write{UserID: 1, Digest: int64(i + 1), Expires: expires}, func(_ Outcome, err error) { got = append(got, err) })
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				synctest.Wait() // it is in progress
			}
		}
		var name string
		p.Get(1, func(reply []byte, err error) { name = nameIn(t, reply) })
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []error{nil, ErrExpired, ErrExpired, nil, ErrExpired, nil}; !slices.Equal(got, want) {
			t.Errorf("the writes have %v", got)
		}
		if name != "6" || p.Load().Actors != 0 {
			t.Errorf("the name is %q, %d actors are left", name, p.Load().Actors)
		}
	})
}

func testMailboxOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		p := testPartition(t, s, nil, 100)
		var done sync.WaitGroup
		for i := range 1000 {
			done.Add(1)
			w := &Write{UserID: int64(i % 10), Digest: int64(i)}
			if err := p.Write(w, func(Outcome, error) { done.Done() }); err != nil {
				t.Fatal(err)
			}
		}
		done.Wait()
		synctest.Wait()
		if s.most != 10 || s.overlap || p.Load().Actors != 0 {
			t.Errorf("%d users at once, overlapping: %t, %d actors left", s.most, s.overlap, p.Load().Actors)
		}
		last := map[int64]int64{}
		for _, w := range s.order {
			if before, ok := last[w.UserID]; ok && w.Digest < before {
				t.Fatalf("user %d: write %d after %d", w.UserID, w.Digest, before)
			}
			last[w.UserID] = w.Digest
		}
	})
}

func testMailboxFull(t *testing.T) {
	const mailbox = 3
	write := func(p *Partition, user int64) error { return p.Write(&Write{UserID: user}, func(Outcome, error) {}) }
	for _, tc := range []struct {
		name string
		try  func(p *Partition) error
		want error
	}{
		{"refuses_a_write", func(p *Partition) error { return write(p, 1) }, ErrMailboxFull},
		{"accepts_a_write_from_the_partition_queue", func(p *Partition) error {
			return p.Write(&Write{UserID: 1, FromQueue: true}, func(Outcome, error) {})
		}, nil},
		{"other_users_are_served", func(p *Partition) error { return write(p, 2) }, nil},
		{"accepts_writes_again_when_two_are_done", func(p *Partition) error {
			time.Sleep(2 * time.Millisecond)
			synctest.Wait()
			return write(p, 1)
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := testPartition(t, newFakeStore(), nil, mailbox)
				for range 1 + mailbox { // one is in progress
					if err := write(p, 1); err != nil {
						t.Fatal(err)
					}
				}
				if err := tc.try(p); !errors.Is(err, tc.want) {
					t.Errorf("%v, want %v", err, tc.want)
				}
			})
		})
	}
}

func testMailboxFullDuringBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.together = maxBatch
		held := make(chan struct{})
		s.before = func(_ context.Context, _ int64, w *Write) error {
			if w != nil {
				<-held
			}
			return nil
		}
		const mailbox = 20
		p := testPartition(t, s, testCache(t, roomy), mailbox)
		taken := 0
		fill := func() {
			for {
				if p.Write(&Write{UserID: 1}, func(Outcome, error) { taken-- }) != nil {
					return
				}
				taken += 2
				if p.Get(1, func([]byte, error) { taken-- }) != nil {
					taken--
				}
				synctest.Wait() // a read that finds the mailbox full bypasses it and completes
			}
		}
		fill()
		held <- struct{}{} // the first write is done, and the next batch starts
		synctest.Wait()
		fill()
		if taken > mailbox+1 {
			t.Errorf("%d tasks of one user, in a mailbox for %d", taken, mailbox)
		}
		close(held)
		synctest.Wait()
		if taken != 0 {
			t.Errorf("%d were not completed", taken)
		}
	})
}

func testMailboxFullForReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1] = "stored"
		p := testPartition(t, s, testCache(t, roomy), 2)
		for range 3 {
			p.Write(&Write{UserID: 1, Digest: 5}, func(Outcome, error) {})
		}
		names := make(chan string, 2)
		get := func() error {
			return p.Get(1, func(reply []byte, err error) { names <- nameIn(t, reply) })
		}
		for range 2 {
			if err := get(); err != nil {
				t.Fatal(err)
			}
		}
		if err := get(); !errors.Is(err, ErrMailboxFull) {
			t.Errorf("the third: %v", err)
		}
		for range 2 {
			<-names
		}
		synctest.Wait()
		if s.finds() != 2 || s.readers != 2 {
			t.Errorf("%d lookups, %d at once", s.finds(), s.readers)
		}
	})
}

func testMailboxFromQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPartition(t, newFakeStore(), testCache(t, roomy), 1)
		for i := range int64(20) {
			p.Write(&Write{UserID: 1, Digest: i + 1, FromQueue: true}, func(Outcome, error) {})
			err := p.GetFromQueue(1, func(reply []byte, err error) {
				if got := nameIn(t, reply); got != strconv.FormatInt(i+1, 10) {
					t.Errorf("after write %d: %q", i+1, got)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func testMailboxReadsBetweenWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, cache := range []*Cache{nil, testCache(t, roomy)} {
			for _, together := range []int{1, 3, maxBatch} {
				s := newFakeStore()
				s.together = together
				p := testPartition(t, s, cache, 100)
				names := make(chan string, 30)
				for i := range int64(10) {
					p.Write(&Write{UserID: 1, Digest: i + 10}, func(Outcome, error) {})
					for range 2 {
						if err := p.Get(1, func(reply []byte, err error) { names <- nameIn(t, reply) }); err != nil {
							t.Fatal(err)
						}
					}
				}
				for i := range 20 {
					if got, want := <-names, strconv.Itoa(10+i/2); got != want {
						t.Errorf("cache %t, %d together: read %d sees %q, want %q", cache != nil, together, i, got, want)
					}
				}
				if cache != nil && s.finds() != 0 {
					t.Errorf("%d together: %d lookups of a user that was just written", together, s.finds())
				}
			}
		}
	})
}

func testMailboxBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, together := range []int{1, 7, maxBatch} {
			s := newFakeStore()
			s.together = together
			p := testPartition(t, s, nil, 1000)
			var completed []int64
			for i := range int64(3 * maxBatch) {
				p.Write(&Write{UserID: 1, Digest: i}, func(o Outcome, err error) {
					if err != nil || o.Refusal != nil || o.Applied && i > 0 && o.After.Name != strconv.FormatInt(i, 10) {
						t.Errorf("write %d: %+v, %v", i, o, err)
					}
					completed = append(completed, i)
				})
			}
			synctest.Wait()
			if err := p.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(completed) != 3*maxBatch || !slices.IsSorted(completed) {
				t.Errorf("%d together: completed %v", together, completed)
			}
			if most := slices.Max(s.batches); most != maxBatch || s.batches[0] != 1 {
				t.Errorf("%d together: given %v at once", together, s.batches)
			}
			if len(s.order) != 3*maxBatch {
				t.Errorf("%d together: %d were done", together, len(s.order))
			}
		}
	})
}

func testMailboxOneWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.together = maxBatch
		failed := errors.New("failed")
		s.before = func(_ context.Context, _ int64, w *Write) error {
			if w != nil && w.Digest%3 == 2 {
				return failed
			}
			return nil
		}
		p := testPartition(t, s, testCache(t, roomy), 1000)
		for i := range int64(100) {
			p.Write(&Write{UserID: 1, Digest: i + 1}, func(_ Outcome, err error) {
				if (err != nil) != ((i+1)%3 == 2) {
					t.Errorf("write %d: %v", i, err)
				}
			})
			p.Get(1, func(reply []byte, err error) {
				want := i + 1
				if want%3 == 2 {
					want--
				}
				if got := nameIn(t, reply); got != strconv.FormatInt(want, 10) {
					t.Errorf("after write %d: %q", i+1, got)
				}
			})
		}
		if err := p.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestReads(t *testing.T) {
	t.Run("one_load_for_all", testReadsShareLoad)
	t.Run("cached", testReadsCached)
	t.Run("without_trusted_cache", testReadsWithoutTrustedCache)
	t.Run("without_cache_after_a_write", testReadsWithoutCacheAfterWrite)
}

func testReadsShareLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1] = "a"
		p := testPartition(t, s, testCache(t, roomy), 100)
		var done sync.WaitGroup
		for range 100 {
			done.Add(1)
			if err := p.Get(1, func(reply []byte, err error) { done.Done() }); err != nil {
				t.Fatal(err)
			}
		}
		if p.Load().Actors != 1 {
			t.Errorf("%d actors", p.Load().Actors)
		}
		done.Wait()
		if s.finds() != 1 {
			t.Errorf("%d lookups", s.finds())
		}
	})
}

func testReadsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1] = "a"
		p := testPartition(t, s, testCache(t, roomy), 100)
		read(t, p, 1)
		synctest.Wait()
		completed := 0
		done := func([]byte, error) { completed++ }
		allocs := testing.AllocsPerRun(100, func() { p.Get(1, done) })
		if completed != 101 || allocs != 0 || s.finds() != 1 || p.Load().Actors != 0 {
			t.Errorf("%d completed before Get returned, %v allocations, %d lookups, %d actors", completed, allocs, s.finds(), p.Load().Actors)
		}
	})
}

func testReadsWithoutTrustedCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		distrusted := testCache(t, roomy)
		distrusted.SetTrusted(false)
		for _, cache := range []*Cache{nil, distrusted} {
			s := newFakeStore()
			p := testPartition(t, s, cache, 3)
			var done sync.WaitGroup
			for range 7 { // 3 bypass the actor, 1 is in progress in the actor, 3 are in the mailbox
				done.Add(1)
				if err := p.Get(1, func([]byte, error) { done.Done() }); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Get(1, nil); !errors.Is(err, ErrMailboxFull) {
				t.Errorf("the eighth: %v", err)
			}
			done.Wait()
			if s.readers != 4 || s.finds() != 5 { // one lookup for all reads in the mailbox
				t.Errorf("%d lookups, %d at once", s.finds(), s.readers)
			}
		}
	})
}

func testReadsWithoutCacheAfterWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		p := testPartition(t, s, nil, 3)
		p.Write(&Write{UserID: 1, Digest: 1}, func(Outcome, error) {})
		p.Get(1, func([]byte, error) {})
		time.Sleep(time.Millisecond * 3 / 2) // the write is done, the read is in progress
		read(t, p, 1)
		if s.readers != 2 {
			t.Errorf("%d lookups at once", s.readers)
		}
	})
}
