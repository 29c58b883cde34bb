package consume

import (
	"context"
	"sync/atomic"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/semaphore"
)

// A Budget bounds the bytes of the messages that an instance has in memory: of the requests
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

const (
	// headerOverhead is about what a header takes in memory beside its text.
	headerOverhead = 32

	// usualHeaders is how many bytes of headers do not count. The broker adds some to a request that
	// it delivers again, which must not make less room for it than it had before.
	usualHeaders = 1 << 10
)

// Size returns the bytes of a message that count: of its body, and about those of its headers if
// they are large.
func Size(d *amqp.Delivery) int {
	size := len(d.Body)
	if n := sizeOf(d.Headers); n > usualHeaders {
		size += n
	}
	return size
}

// sizeOf returns about the bytes that the value of a header takes.
func sizeOf(value any) (n int) {
	switch v := value.(type) {
	case amqp.Table:
		for name, value := range v {
			n += len(name) + headerOverhead + sizeOf(value)
		}
	case []any:
		for _, value := range v {
			n += headerOverhead + sizeOf(value)
		}
	case string:
		n = len(v)
	case []byte:
		n = len(v)
	}
	return n
}

// Weight returns what a message of a size counts in flight. A request that is larger than the
// budget is carried out alone.
func (b *Budget) Weight(size int) int64 { return min(int64(size), b.size) }

// isSmall reports whether the budget has room for as many messages of this size as the usual
// prefetch counts allow.
func (b *Budget) isSmall(size int) bool { return int64(size)*b.prefetch.Load() <= b.size }

// Acquire waits until a weight can be in flight, or ctx is done.
func (b *Budget) Acquire(ctx context.Context, weight int64) error {
	return b.inFlight.Acquire(ctx, weight)
}

// TryAcquire has a message of a size be in flight, if that is possible at once.
func (b *Budget) TryAcquire(size int) bool { return b.inFlight.TryAcquire(b.Weight(size)) }

// Release releases a weight that was in flight.
func (b *Budget) Release(weight int64) { b.inFlight.Release(weight) }

// prefetchFor returns the prefetch count, up to full, with which a consumer gets its share
// of the budget in messages of this size. full is the usual prefetch count of the consumer.
func (b *Budget) prefetchFor(size, full int) int {
	share := b.size * int64(full) / max(int64(full), b.prefetch.Load())
	return int(max(1, min(int64(full), share/int64(max(1, size)))))
}
