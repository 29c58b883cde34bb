package consume

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// A Budget bounds the bytes of the bodies that an instance has in memory: of the requests
// in flight, and as many again of deliveries that wait until they can be. RabbitMQ bounds
// what it sends ahead only by number.
type Budget struct {
	size     int64
	inFlight *semaphore.Weighted

	waiting  atomic.Int64 // bytes of deliveries that wait
	prefetch atomic.Int64 // the sum of the usual prefetch counts of the consumers that receive
}

// NewBudget returns a Budget of size bytes in flight.
func NewBudget(size int64) *Budget {
	return &Budget{size: size, inFlight: semaphore.NewWeighted(size)}
}

// Weight returns what a body counts in flight. A request that is larger than the budget is
// carried out alone.
func (b *Budget) Weight(body []byte) int64 { return min(int64(len(body)), b.size) }

// isSmall reports whether the budget has room for as many bodies of this size as the usual
// prefetch counts allow.
func (b *Budget) isSmall(body []byte) bool { return int64(len(body))*b.prefetch.Load() <= b.size }

// Acquire waits until a weight can be in flight, or ctx is done.
func (b *Budget) Acquire(ctx context.Context, weight int64) error {
	return b.inFlight.Acquire(ctx, weight)
}

// TryAcquire has a body be in flight, if that is possible at once.
func (b *Budget) TryAcquire(body []byte) bool { return b.inFlight.TryAcquire(b.Weight(body)) }

// Release releases a weight that was in flight.
func (b *Budget) Release(weight int64) { b.inFlight.Release(weight) }

// prefetchFor returns the prefetch count, up to full, with which a consumer gets its share
// of the budget in bodies of this size. full is the usual prefetch count of the consumer.
func (b *Budget) prefetchFor(body, full int) int {
	share := b.size * int64(full) / max(int64(full), b.prefetch.Load())
	return int(max(1, min(int64(full), share/int64(max(1, body)))))
}
