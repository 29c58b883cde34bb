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

	"github.com/glotpod/ident/cluster/partition"
)

func TestWritesToOneUserAreDoneInOrderAndToOthersMeanwhile(t *testing.T) {
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

func TestAFullMailboxTakesNoMoreWritesAndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPartition(t, newFakeStore(), nil, 3)
		write := func(user int64) error { return p.Write(&Write{UserID: user}, func(Outcome, error) {}) }
		for range 4 { // one is being done
			if err := write(1); err != nil {
				t.Fatal(err)
			}
		}
		if err := write(1); !errors.Is(err, ErrMailboxFull) {
			t.Errorf("the fifth: %v", err)
		}
		if err := p.Write(&Write{UserID: 1, FromQueue: true}, func(Outcome, error) {}); err != nil {
			t.Errorf("one by the partition's queue: %v", err)
		}
		if err := write(2); err != nil {
			t.Errorf("another user: %v", err)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if err := write(1); err != nil {
			t.Errorf("when two are done: %v", err)
		}
	})
}

func TestAMailboxIsFullHoweverManyOfItsTasksAreDoneAtOnce(t *testing.T) {
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
				synctest.Wait() // a read that finds no room is done beside the mailbox, and told
			}
		}
		fill()
		held <- struct{}{} // the first write is done, and more are begun
		synctest.Wait()
		fill()
		if taken > mailbox+1 {
			t.Errorf("%d tasks of one user, in a mailbox for %d", taken, mailbox)
		}
		close(held)
		synctest.Wait()
		if taken != 0 {
			t.Errorf("%d were not told", taken)
		}
	})
}

func TestAReadByThePartitionsQueueSeesTheWritesBeforeItHoweverManyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPartition(t, newFakeStore(), testCache(t, roomy), 1)
		for i := range int64(20) {
			p.Write(&Write{UserID: 1, Digest: i + 1, FromQueue: true}, func(Outcome, error) {})
			err := p.GetFromQueue(1, func(answer []byte, err error) {
				if got := nameIn(t, answer); got != strconv.FormatInt(i+1, 10) {
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

func TestAReadThatFindsTheMailboxFullGoesToTheStoreUpToABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1] = "stored"
		p := testPartition(t, s, testCache(t, roomy), 2)
		for range 3 {
			p.Write(&Write{UserID: 1, Digest: 5}, func(Outcome, error) {})
		}
		names := make(chan string, 2)
		get := func() error {
			return p.Get(1, func(answer []byte, err error) { names <- nameIn(t, answer) })
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
			t.Errorf("%d look-ups, %d at once", s.finds(), s.readers)
		}
	})
}

func TestAReadSeesTheWritesThatCameBeforeAndNoneThatCameAfter(t *testing.T) {
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
						if err := p.Get(1, func(answer []byte, err error) { names <- nameIn(t, answer) }); err != nil {
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
					t.Errorf("%d together: %d look-ups of a user who has just been written", together, s.finds())
				}
			}
		}
	})
}

func TestWritesThatWaitForOneUserAreCommittedTogetherUpToABoundAndToldInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, together := range []int{1, 7, maxBatch} {
			s := newFakeStore()
			s.together = together
			p := testPartition(t, s, nil, 1000)
			var told []int64
			for i := range int64(3 * maxBatch) {
				p.Write(&Write{UserID: 1, Digest: i}, func(o Outcome, err error) {
					if err != nil || o.Refusal != nil || o.Applied && i > 0 && o.After.Name != strconv.FormatInt(i, 10) {
						t.Errorf("write %d: %+v, %v", i, o, err)
					}
					told = append(told, i)
				})
			}
			synctest.Wait()
			if err := p.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(told) != 3*maxBatch || !slices.IsSorted(told) {
				t.Errorf("%d together: told %v", together, told)
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

func TestAWriteThatFailsTakesNoOtherAlong(t *testing.T) {
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
			p.Get(1, func(answer []byte, err error) {
				want := i + 1
				if want%3 == 2 {
					want--
				}
				if got := nameIn(t, answer); got != strconv.FormatInt(want, 10) {
					t.Errorf("after write %d: %q", i+1, got)
				}
			})
		}
		if err := p.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestReadsThatComeWhileAUserIsLoadedAreAnsweredByTheSameLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1] = "a"
		p := testPartition(t, s, testCache(t, roomy), 100)
		var done sync.WaitGroup
		for range 100 {
			done.Add(1)
			if err := p.Get(1, func(answer []byte, err error) { done.Done() }); err != nil {
				t.Fatal(err)
			}
		}
		if p.Load().Actors != 1 {
			t.Errorf("%d actors", p.Load().Actors)
		}
		done.Wait()
		if s.finds() != 1 {
			t.Errorf("%d look-ups", s.finds())
		}
	})
}

func TestAWarmUserIsReadAtOnceAndForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1] = "a"
		p := testPartition(t, s, testCache(t, roomy), 100)
		read(t, p, 1)
		synctest.Wait()
		told := 0
		done := func([]byte, error) { told++ }
		allocs := testing.AllocsPerRun(100, func() { p.Get(1, done) })
		if told != 101 || allocs != 0 || s.finds() != 1 || p.Load().Actors != 0 {
			t.Errorf("%d told before Get returned, %v allocations, %d look-ups, %d actors", told, allocs, s.finds(), p.Load().Actors)
		}
	})
}

func TestWithoutATrustedCacheReadsRunBesideEachOtherUpToABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		distrusted := testCache(t, roomy)
		distrusted.SetTrusted(false)
		for _, cache := range []*Cache{nil, distrusted} {
			s := newFakeStore()
			p := testPartition(t, s, cache, 3)
			var done sync.WaitGroup
			for range 7 { // 3 beside the actor, one by the actor, 3 in the mailbox
				done.Add(1)
				if err := p.Get(1, func([]byte, error) { done.Done() }); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Get(1, nil); !errors.Is(err, ErrMailboxFull) {
				t.Errorf("the eighth: %v", err)
			}
			done.Wait()
			if s.readers != 4 || s.finds() != 5 { // what waits is looked up once
				t.Errorf("%d look-ups, %d at once", s.finds(), s.readers)
			}
		}
	})
}

func TestWithoutACacheAReadWaitsForNoReadThatHadToWaitForAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		p := testPartition(t, s, nil, 3)
		p.Write(&Write{UserID: 1, Digest: 1}, func(Outcome, error) {})
		p.Get(1, func([]byte, error) {})
		time.Sleep(time.Millisecond * 3 / 2) // the write is done, the read is under way
		read(t, p, 1)
		if s.readers != 2 {
			t.Errorf("%d look-ups at once", s.readers)
		}
	})
}

func TestAWriteLeavesTheUserWarmOnlyAsFarAsItsOutcomeIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := errors.New("failed")
		for _, tc := range []struct {
			what        string
			name        int64
			before      error // that the store gives before it has applied the write
			after       error // and after
			want        string
			wantLookups int
		}{
			{"applied", 7, nil, nil, "7", 0},
			{"deleted", 0, nil, nil, "", 1},
			{"refused", 7, NoSuchUser, nil, "a", 0},
			{"repeated", 7, nil, errRepeated, "7", 1},
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
				t.Errorf("%s: %q, %d look-ups; want %q, %d", tc.what, got, s.finds()-1, tc.want, tc.wantLookups)
			}
		}
	})
}

func TestNothingThatWasAskedBeforeADistrustIsKeptOrAnsweredAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1], s.names[2], s.names[3] = "a", "a", "a"
		c := testCache(t, roomy)
		p := testPartition(t, s, c, 10)
		read(t, p, 3)
		s.before = func(context.Context, int64, *Write) error { return nil }
		s.after = func(ctx context.Context, _ int64, _ *Write) error { return takeAMillisecond(ctx) }
		first, names := make(chan string, 1), make(chan string, 3)
		p.Get(1, func(answer []byte, err error) { first <- nameIn(t, answer) })
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
			p.Get(user, func(answer []byte, err error) { names <- nameIn(t, answer) })
		}
		if name := <-first; name != "a" {
			t.Errorf("the read that came before: %q", name)
		}
		for range 3 {
			if name := <-names; name != "b" {
				t.Errorf("a read that came after: %q", name)
			}
		}
	})
}

func TestWhenTheLeaseIsOverThePartitionIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1], s.names[2] = "a", "a"
		fenced := 0
		p := NewPartition(PartitionOptions{Store: s, Lease: partition.Lease{Epoch: 1}, Mailbox: 10, Cache: testCache(t, roomy), Fenced: func() { fenced++ }})
		defer p.Stop()
		read(t, p, 2)
		synctest.Wait()
		s.epoch = 2
		told := make(chan error, 8)
		for user := int64(1); user <= 2; user++ {
			for range 2 {
				p.Write(&Write{UserID: user}, func(_ Outcome, err error) {
					if fenced != 1 {
						t.Errorf("told when Fenced was called %d times", fenced)
					}
					told <- err
				})
				p.Get(user, func(_ []byte, err error) { told <- err })
			}
		}
		for range 8 {
			if err := <-told; !errors.Is(err, ErrFenced) {
				t.Errorf("told %v", err)
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

func TestStopTellsEveryTaskOnceAndTakesNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPartition(t, newFakeStore(), testCache(t, roomy), 100)
		told := 0
		var mu sync.Mutex
		tell := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			told++
			if !errors.Is(err, ErrStopped) {
				t.Errorf("told %v", err)
			}
		}
		for i := range 100 {
			p.Write(&Write{UserID: int64(i % 3)}, func(_ Outcome, err error) { tell(err) })
			p.Get(int64(i%5), func(_ []byte, err error) { tell(err) })
		}
		p.Stop()
		p.Stop()
		if told != 200 || p.Load().Actors != 0 {
			t.Errorf("%d told, %d actors", told, p.Load().Actors)
		}
		if err := p.Write(&Write{}, nil); !errors.Is(err, ErrStopped) {
			t.Error(err)
		}
	})
}

func TestFinishDoesWhatThereIsAndTakesNoMore(t *testing.T) {
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
		p.Get(1, func(answer []byte, err error) {
			if nameIn(t, answer) == "1" {
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

func TestAReadThatWaitsWhenAPartitionEndsIsNotAnsweredFromTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.names[1] = "a"
		c := testCache(t, roomy)
		p := testPartition(t, s, c, 10)
		read(t, p, 1)
		c.Close() // so that it does not let the user go
		s.before = func(ctx context.Context, _ int64, w *Write) error {
			if w != nil {
				takeAMillisecond(ctx)
				return NoSuchUser // the user stays warm
			}
			return nil
		}
		p.Write(&Write{UserID: 1, Digest: 2}, func(Outcome, error) {})
		seen := ""
		p.Get(1, func(answer []byte, err error) { seen = nameIn(t, answer) })
		over, cancel := context.WithCancel(t.Context())
		cancel()
		p.Drain(over)
		s.foreign(1, "by the next owner")
		if err := p.Drain(t.Context()); err != nil || seen != "by the next owner" {
			t.Errorf("%v; the read saw %q", err, seen)
		}
	})
}

func TestAPartitionCanBeEndedByManyWhileOthersUseIt(t *testing.T) {
	c := testCache(t, roomy)
	for range 50 {
		s := newFakeStore()
		s.before = func(ctx context.Context, _ int64, _ *Write) error { return ctx.Err() }
		p := NewPartition(PartitionOptions{Store: s, Lease: partition.Lease{Epoch: 1}, Mailbox: 4, Cache: c, Fenced: func() {}})
		var running, told sync.WaitGroup
		for i := range 10 {
			running.Go(func() {
				for user := range int64(20) {
					told.Add(2)
					if p.Write(&Write{UserID: user, Digest: 1}, func(Outcome, error) { told.Done() }) != nil {
						told.Done()
					}
					if p.Get(user, func([]byte, error) { told.Done() }) != nil {
						told.Done()
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
		told.Wait()
	}
}
