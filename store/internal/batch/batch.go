// Package batch processes items in groups. Many goroutines submit one item each and
// wait for its result; a few workers process the items that have arrived, as a group.
//
// While one group is being processed, the next one fills. So a group is as large as the
// load makes it. With [Config.OneAtATime], an item waits for the group before it, and
// shortly for other items that are likely to come.
package batch

import (
	"context"
	"errors"
	"runtime"
)

// ErrClosed is the error of an item that was submitted too late to be processed.
var ErrClosed = errors.New("the store is closed")

// A Config says how a [Batcher] makes groups and what it does with them.
type Config[T any] struct {
	MaxItems  int         // in a group, and in the queue
	Weight    func(T) int // of one item; nil means that items weigh nothing
	MaxWeight int         // of a group. The last item of a group may exceed it

	// Process processes a group. It sends the result of each item, now or later.
	Process func(group []T)

	// Discard completes an item with ErrClosed: the batcher closed before the item
	// was processed.
	Discard func(T)

	// AtOnce reports whether an item does not wait for others that may come. A group with one
	// that does not is processed at once. nil: all wait.
	AtOnce func(T) bool

	// OneAtATime makes a worker wait for the group of another worker, for overlapAfter
	// at most. So items that arrive meanwhile make one group instead of several small
	// ones, each of which would cost the database as much as a large one.
	OneAtATime bool

	// MustFinish makes Submit wait for the result of an item that is in the queue
	// even when Submit's context is done: Process heeds the contexts of its items.
	MustFinish bool

	Closing <-chan struct{} // closed when the batcher is to accept and process nothing more
	Stopped <-chan struct{} // closed when nothing will send results any more
}

// A Batcher holds the items that wait, and passes them to Config.Process in groups. It
// is safe for concurrent use.
type Batcher[T any] struct {
	config Config[T]
	queue  chan T
	gate   *groupGate // nil: every worker processes its groups independently
}

// New returns a batcher without workers. Each call of [Batcher.Work] adds one.
func New[T any](config Config[T]) *Batcher[T] {
	b := &Batcher[T]{config: config, queue: make(chan T, config.MaxItems)}
	if config.OneAtATime {
		b.gate = newGroupGate()
	}
	return b
}

// Put adds an item to the queue. It returns ctx's error or ErrClosed if it did not.
func (b *Batcher[T]) Put(ctx context.Context, item T) error {
	select {
	case b.queue <- item:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.config.Closing:
		return ErrClosed
	}
}

// Submit puts an item into b's queue and returns its result, which Process or Discard
// sends to results. The error is ctx's, or ErrClosed: then the item may have been
// processed, or not.
func Submit[T, R any](ctx context.Context, b *Batcher[T], item T, results <-chan R) (result R, err error) {
	if err := b.Put(ctx, item); err != nil {
		return result, err
	}
	cancelled := ctx.Done()
	if b.config.MustFinish {
		cancelled = nil
	}
	select {
	case result = <-results:
		return result, nil
	case <-cancelled:
		return result, ctx.Err()
	case <-b.config.Stopped: // the item may have arrived after the last worker had returned
	}
	select {
	case result = <-results:
		return result, nil
	default:
		return result, ErrClosed
	}
}

// Work processes groups until Config.Closing is closed. Then it discards the items that
// still wait. Several goroutines may call it at the same time.
func (b *Batcher[T]) Work() {
	defer b.discardAll()
	for {
		leave, ok := b.gate.enter(b.config.Closing)
		if !ok {
			return
		}
		select {
		case first := <-b.queue:
			runtime.Gosched() // let goroutines that are about to submit do so first
			group := b.fill(first)
			b.gate.process(len(group), func() { b.config.Process(group) }, leave)
		case <-b.config.Closing:
			leave()
			return
		}
	}
}

func (b *Batcher[T]) discardAll() {
	for {
		select {
		case item := <-b.queue:
			b.config.Discard(item)
		default:
			return
		}
	}
}

// fill makes a group of first and the items that are in the queue. If that pays, it waits for
// more items.
func (b *Batcher[T]) fill(first T) []T {
	g := &group[T]{config: &b.config}
	g.add(first)
	b.gate.gather(func(items int) bool {
		g.addFrom(b.queue)
		return len(g.items) >= items || g.atOnce || g.isHeavy()
	}, b.config.Closing)
	g.addFrom(b.queue)
	return g.items
}

// A group is filled with items.
type group[T any] struct {
	config *Config[T]
	items  []T
	weight int
	atOnce bool
}

func (g *group[T]) add(item T) {
	g.items = append(g.items, item)
	if g.config.Weight != nil {
		g.weight += g.config.Weight(item)
	}
	if g.config.AtOnce != nil {
		g.atOnce = g.atOnce || g.config.AtOnce(item)
	}
}

// addFrom adds the items that are in the queue, as far as they fit.
func (g *group[T]) addFrom(queue <-chan T) {
	for len(g.items) < g.config.MaxItems && g.weight <= g.config.MaxWeight {
		select {
		case item := <-queue:
			g.add(item)
		default:
			return
		}
	}
}

// isHeavy reports whether the group is large enough by its weight, perhaps with one item.
func (g *group[T]) isHeavy() bool { return g.weight > g.config.MaxWeight/4 }
