package batch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// An item of these tests has a weight and waits for a result.
type item struct {
	weight int
	result chan int
}

// harness collects the groups of a batcher, each of which takes a second. The result of
// an item is the size of its group.
type harness struct {
	*Batcher[*item]
	mu               sync.Mutex // guards the following field
	groups           []int
	closing, stopped chan struct{}
	working          sync.WaitGroup
}

const discarded = -1

func start(t *testing.T, change func(*Config[*item])) *harness {
	t.Helper()
	h := &harness{closing: make(chan struct{}), stopped: make(chan struct{})}
	config := Config[*item]{
		MaxItems: 10,
		Process: func(group []*item) {
			h.mu.Lock()
			h.groups = append(h.groups, len(group))
			h.mu.Unlock()
			time.Sleep(time.Second)
			for _, i := range group {
				i.result <- len(group)
			}
		},
		Discard: func(i *item) { i.result <- discarded },
		Closing: h.closing, Stopped: h.stopped,
	}
	change(&config)
	h.Batcher = New(config)
	h.working.Go(h.Work)
	return h
}

func (h *harness) submit(ctx context.Context, weight int) (int, error) {
	i := &item{weight, make(chan int, 1)}
	return Submit(ctx, h.Batcher, i, i.result)
}

func (h *harness) close() {
	close(h.closing)
	h.working.Wait()
	close(h.stopped)
}

func TestBatcher(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config[*item])
		items  []int // their weights
		want   []int // the sizes of groups
	}{
		{"what waits makes one group", func(*Config[*item]) {}, []int{1, 1, 1, 1}, []int{1, 4}},
		{"no more than the most items", func(c *Config[*item]) { c.MaxItems = 3 }, []int{1, 1, 1}, []int{1, 3}},
		{"no more than the greatest weight, but for the last item", func(c *Config[*item]) {
			c.Weight, c.MaxWeight = func(i *item) int { return i.weight }, 5
		}, []int{5, 9, 1, 1}, []int{1, 2, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := start(t, c.change)
				var submitting sync.WaitGroup
				for _, weight := range append([]int{100}, c.items...) {
					submitting.Go(func() {
						if _, err := h.submit(t.Context(), weight); err != nil {
							t.Error(err)
						}
					})
					synctest.Wait() // the first item is being processed, the others wait in order
				}
				submitting.Wait()
				h.close()
				if !slices.Equal(h.groups, c.want) {
					t.Errorf("groups of %v, want %v", h.groups, c.want)
				}
			})
		})
	}
}

// TestGather submits items together, and then some of them together and one a little later.
func TestGather(t *testing.T) {
	for _, c := range []struct {
		name   string
		weight int
		atOnce bool
		want   []int // the sizes of groups
	}{
		{"waits for an item that is likely to come", 1, false, []int{1, 3, 3}},
		{"does not wait if the group is heavy", 13, false, []int{1, 3, 2, 1}},
		{"does not wait if an item does not", 1, true, []int{1, 3, 2, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := start(t, func(config *Config[*item]) {
					config.OneAtATime = true
					config.Weight, config.MaxWeight = func(i *item) int { return i.weight }, 100
					var seen int
					config.AtOnce = func(*item) bool { seen++; return c.atOnce && seen == 5 }
				})
				h.working.Go(h.Work) // a second worker must not keep an item for itself
				var submitting sync.WaitGroup
				submit := func(delay time.Duration) {
					submitting.Go(func() {
						time.Sleep(delay)
						if _, err := h.submit(t.Context(), c.weight); err != nil {
							t.Error(err)
						}
					})
				}
				submit(0)
				for range 3 {
					submit(time.Millisecond)
				}
				submitting.Wait()
				submit(0)
				submit(0)
				submit(gatherAtMost / 2)
				submitting.Wait()
				h.close()
				if !slices.Equal(h.groups, c.want) {
					t.Errorf("groups of %v, want %v", h.groups, c.want)
				}
			})
		})
	}
}

func TestSubmit(t *testing.T) {
	t.Run("returns when its context is done", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := start(t, func(*Config[*item]) {})
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			begun := time.Now()
			if _, err := h.submit(ctx, 1); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(begun))
			}
			h.close()
		})
	})
	t.Run("waits for an item that must finish", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := start(t, func(c *Config[*item]) { c.MustFinish = true })
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if size, err := h.submit(ctx, 1); size != 1 || err != nil {
				t.Errorf("%d, %v", size, err)
			}
			h.close()
		})
	})
	t.Run("does not queue when its context is done", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := start(t, func(c *Config[*item]) { c.MaxItems, c.MustFinish = 0, true })
			go h.submit(t.Context(), 1) // occupies the worker
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if _, err := h.submit(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			h.close()
		})
	})
	t.Run("every item has a result when the batcher closes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := start(t, func(*Config[*item]) {})
			var submitting sync.WaitGroup
			for i := range 10 {
				submitting.Go(func() {
					got, err := h.submit(t.Context(), 1)
					if err != nil || i == 0 && got != 1 || i > 0 && got != discarded && got != 9 {
						t.Errorf("item %d: %d, %v", i, got, err)
					}
				})
				synctest.Wait()
			}
			h.close()
			submitting.Wait()
		})
	})
	t.Run("after the last worker has returned", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := start(t, func(*Config[*item]) {})
			h.close()
			for range 100 { // the queue has room: both ways end
				if _, err := h.submit(t.Context(), 1); !errors.Is(err, ErrClosed) {
					t.Fatal(err)
				}
			}
		})
	})
}
