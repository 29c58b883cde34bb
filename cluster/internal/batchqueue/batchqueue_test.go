package batchqueue_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/glotpod/ident/cluster/internal/batchqueue"
)

func TestQueue(t *testing.T) {
	t.Run("take_empties_it_in_order", func(t *testing.T) {
		q := batchqueue.New[int]()
		q.Put(1, 2)
		q.Put(3)
		if n := q.Len(); n != 3 {
			t.Errorf("%d items are queued", n)
		}
		if items := q.Take(); !slices.Equal(items, []int{1, 2, 3}) || q.Len() != 0 || q.Take() != nil {
			t.Errorf("took %v, and %d items are left", items, q.Len())
		}
	})

	t.Run("a_waiting_reader_gets_each_item_once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q := batchqueue.New[int]()
			ctx, cancel := context.WithCancel(t.Context())
			var got []int
			var reader sync.WaitGroup
			reader.Go(func() {
				for batch := range q.Batches(ctx) {
					got = append(got, batch...)
				}
			})
			synctest.Wait() // the reader waits
			q.Put(1, 2)
			synctest.Wait()
			q.Put(3)
			q.Put(4)
			synctest.Wait()
			cancel()
			reader.Wait()
			if !slices.Equal(got, []int{1, 2, 3, 4}) {
				t.Errorf("the reader got %v", got)
			}
		})
	})

	t.Run("an_emptied_queue_yields_no_batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q := batchqueue.New[int]()
			q.Put(1)
			q.Take() // the signal is left over
			ctx, cancel := context.WithCancel(t.Context())
			var reader sync.WaitGroup
			reader.Go(func() {
				for batch := range q.Batches(ctx) {
					t.Errorf("got the batch %v", batch)
				}
			})
			synctest.Wait()
			cancel()
			reader.Wait()
		})
	})

	t.Run("wait_ends_with_its_context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if batchqueue.New[int]().Wait(ctx) {
			t.Error("something is said to be queued")
		}
	})

	t.Run("the_loop_may_stop_early", func(t *testing.T) {
		q := batchqueue.New[int]()
		q.Put(1)
		for range q.Batches(t.Context()) {
			break
		}
	})
}
