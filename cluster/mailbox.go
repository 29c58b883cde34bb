package cluster

import (
	"context"
	"iter"
	"sync"
)

// A mailbox holds what many put into it until one takes it, all at once. It has
// no bound of its own: what is put in is bounded by those who do.
type mailbox[T any] struct {
	ready chan struct{} // holds a token while there may be something
	items *items[T]
}

type items[T any] struct {
	mu   sync.Mutex // guards the following field
	list []T
}

func newMailbox[T any]() mailbox[T] {
	return mailbox[T]{ready: make(chan struct{}, 1), items: new(items[T])}
}

// put does not wait. What is put in together is taken together.
func (m mailbox[T]) put(items ...T) {
	m.items.mu.Lock()
	m.items.list = append(m.items.list, items...)
	m.items.mu.Unlock()
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

func (m mailbox[T]) len() int {
	m.items.mu.Lock()
	defer m.items.mu.Unlock()
	return len(m.items.list)
}

// wait waits until there may be something, and returns false when ctx is done.
func (m mailbox[T]) wait(ctx context.Context) bool {
	select {
	case <-m.ready:
		return true
	case <-ctx.Done():
		return false
	}
}

// batches returns what is put in, all that is there at a time, until ctx is done.
func (m mailbox[T]) batches(ctx context.Context) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		for m.wait(ctx) {
			if list := m.take(); len(list) > 0 && !yield(list) {
				return
			}
		}
	}
}

// take empties the mailbox.
func (m mailbox[T]) take() []T {
	m.items.mu.Lock()
	defer m.items.mu.Unlock()
	list := m.items.list
	m.items.list = nil
	return list
}
