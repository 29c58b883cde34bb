package cluster

import (
	"context"
	"sync/atomic"
)

// A budget bounds how much is under way. It is exceeded by the last one that it
// was not spent for. Many goroutines may give, one takes.
type budget struct {
	limit int64
	taken atomic.Int64
	room  chan struct{} // tells the one who takes that something was given back
}

func newBudget(limit int64) budget {
	return budget{limit: limit, room: make(chan struct{}, 1)}
}

func (b *budget) spent() bool { return b.taken.Load() >= b.limit }

func (b *budget) take(n int64) { b.taken.Add(n) }

func (b *budget) give(n int64) {
	if before := b.taken.Add(-n) + n; before < b.limit {
		return // nobody waits
	}
	select {
	case b.room <- struct{}{}:
	default:
	}
}

// await returns when the budget is not spent, or ctx is done.
func (b *budget) await(ctx context.Context) {
	for b.spent() {
		select {
		case <-b.room:
		case <-ctx.Done():
			return
		}
	}
}
