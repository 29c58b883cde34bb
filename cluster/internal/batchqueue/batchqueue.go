// Package batchqueue has a queue that many goroutines put items into and one goroutine
// empties. It takes all queued items at once, so that it can handle them as a batch.
package batchqueue

import (
	"context"
	"iter"
	"sync"

	"github.com/glotpod/ident/cluster/wait"
)

// A Queue holds items in the order in which they were put in. It has no bound of its
// own: its users bound the number of items. All methods are safe for concurrent use,
// but only one goroutine may wait.
type Queue[T any] struct {
	ready wait.Signal // notified when an item is put in

	mu    sync.Mutex // guards the following field
	items []T
}

// New returns an empty queue.
func New[T any]() *Queue[T] { return &Queue[T]{ready: wait.NewSignal()} }

// Put adds items without blocking. Items that are put in by one call are taken
// together.
func (q *Queue[T]) Put(items ...T) {
	q.mu.Lock()
	q.items = append(q.items, items...)
	q.mu.Unlock()
	q.ready.Notify()
}

// Len returns the number of queued items.
func (q *Queue[T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// Take returns all queued items and empties the queue. It does not block.
func (q *Queue[T]) Take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = nil
	return items
}

// Ready returns a channel to receive from before Take, for use in a select statement.
// It delivers a value after items were put in; the queue may be empty all the same.
func (q *Queue[T]) Ready() <-chan struct{} { return q.ready }

// Wait waits until items were put in. It returns false if ctx is done first.
func (q *Queue[T]) Wait(ctx context.Context) bool {
	select {
	case <-q.ready:
		return true
	case <-ctx.Done():
		return false
	}
}

// Batches yields the queued items, all at once each time, until ctx is done.
func (q *Queue[T]) Batches(ctx context.Context) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		for q.Wait(ctx) {
			if items := q.Take(); len(items) > 0 && !yield(items) {
				return
			}
		}
	}
}
