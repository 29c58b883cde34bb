package store

import (
	"context"
	"runtime"
)

// A gatherer has work that comes one by one done in groups. While one group is
// being done the next one fills, so a group is as large as the load makes it,
// and nothing waits for the sake of a larger one, but for its turn.
type gatherer[T any] struct {
	in     <-chan T
	turn   *turn       // of all gatherers of this kind; nil: each goes on by itself
	most   int         // in a group
	weigh  func(T) int // nil: everything weighs nothing
	weight int         // of a group, but for its last one
	do     func([]T)
	drop   func(T) // for what still waits at the end
}

// run works until ctx is done.
func (g gatherer[T]) run(ctx context.Context) {
	for {
		select {
		case first := <-g.in:
			giveBack := g.turn.take(ctx)
			runtime.Gosched() // who is about to give more, as one message after another is read, does so first
			g.do(g.fill(first))
			giveBack()
		case <-ctx.Done():
			for {
				select {
				case rest := <-g.in:
					g.drop(rest)
				default:
					return
				}
			}
		}
	}
}

// fill makes a group of first and what can be had without waiting.
func (g gatherer[T]) fill(first T) []T {
	group, weight := []T{first}, 0
	for next := first; ; {
		if g.weigh != nil {
			weight += g.weigh(next)
		}
		if len(group) == g.most || weight > g.weight {
			return group
		}
		select {
		case next = <-g.in:
			group = append(group, next)
		default:
			return group
		}
	}
}
