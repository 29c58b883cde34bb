package consume

import (
	"context"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// raiseEvery is how often a prefetch count that was lowered may be raised.
const raiseEvery = 10 * time.Second

// A reception is the receiving of one consumer's deliveries.
type reception struct {
	consumer *Consumer
	budget   *Budget
	full     int // the usual prefetch count
	accept   func(d amqp.Delivery, received time.Time, size int)

	largest int       // bytes of the largest message since then
	since   time.Time // unless the prefetch count is the usual one

	next int  // the prefetch count of the next consumer; 0: none is wanted
	over bool // further deliveries are not accepted

	cancelling sync.WaitGroup
}

// Receive passes the deliveries of the consumer to accept, in order, when the budget allows
// it, with its [Size]. Each is to be released to the budget. Receive returns when the consumer has ended and
// its deliveries are accepted, or ctx is done.
//
// full is the usual prefetch count. If too many bytes wait for the budget, Receive accepts
// no further deliveries, and returns the prefetch count with which a next consumer is to be
// started: the broker delivers the rest to that one, in order, when this consumer's channel
// is closed. When the bodies have been small for a while, Receive cancels a consumer with a
// lower prefetch count, accepts all of its deliveries, and returns a higher count. Otherwise
// it returns 0.
func (c *Consumer) Receive(ctx context.Context, b *Budget, full int, accept func(d amqp.Delivery, received time.Time, size int)) (next int) {
	b.prefetch.Add(int64(full))
	defer b.prefetch.Add(-int64(full))
	r := &reception{consumer: c, budget: b, full: full, accept: accept, since: time.Now()}
	defer r.cancelling.Wait()
	for d := range c.Deliveries {
		received, size := time.Now(), Size(&d)
		c.Track(&d)
		if c.idle.prefetch < full {
			r.maybeRaise(size, received)
		}
		switch {
		case ctx.Err() != nil:
			return r.next
		case b.isSmall(size) && b.TryAcquire(size):
			accept(d, received, size)
		case !r.wait(ctx, waitingDelivery{d, received, size}):
			return r.next
		}
		if r.over {
			go discard(c.Deliveries) // until the channel is closed
			return r.next
		}
	}
	return r.next
}

// A waitingDelivery waits until the budget allows it to be in flight, and until those before
// it are accepted.
type waitingDelivery struct {
	delivery amqp.Delivery
	received time.Time
	size     int
}

// wait accepts a delivery, and those that come in the meantime, when the budget allows it.
// At the same time it takes all that comes, since amqp091-go keeps what is not taken in
// memory, and nobody knows how much that is. It returns false if ctx was done first.
func (r *reception) wait(ctx context.Context, first waitingDelivery) bool {
	var waiting []waitingDelivery
	defer func() {
		for _, w := range waiting {
			r.budget.waiting.Add(-int64(w.size))
		}
	}()
	if r.mayWait(first.size) {
		waiting = append(waiting, first)
	}
	deliveries := r.consumer.Deliveries
	accepted := make(chan bool)
	for len(waiting) > 0 {
		go func(w waitingDelivery) { accepted <- r.acceptWaiting(ctx, w) }(waiting[0])
		for pending := true; pending; {
			select {
			case ok := <-accepted:
				if !ok {
					return false
				}
				pending = false
			case d, ok := <-deliveries:
				if !ok {
					deliveries = nil // the consumer has ended
					continue
				}
				r.consumer.Track(&d)
				if size := Size(&d); !r.over && r.mayWait(size) {
					waiting = append(waiting, waitingDelivery{d, time.Now(), size})
				}
			}
		}
		waiting[0] = waitingDelivery{}
		waiting = waiting[1:]
	}
	return true
}

// acceptWaiting accepts a delivery when the budget allows it. It returns false if ctx was
// done first.
func (r *reception) acceptWaiting(ctx context.Context, w waitingDelivery) bool {
	if r.budget.Acquire(ctx, r.budget.Weight(w.size)) != nil {
		return false
	}
	r.budget.waiting.Add(-int64(w.size))
	r.accept(w.delivery, w.received, w.size)
	return true
}

// mayWait reports whether a delivery of this size may wait. If it may not, neither it nor
// any later one is accepted. With a prefetch count of one, or if the consumer was cancelled
// already, each may.
func (r *reception) mayWait(size int) bool {
	r.largest = max(r.largest, size)
	if r.budget.waiting.Add(int64(size)) <= r.budget.size || r.consumer.idle.prefetch == 1 || r.next > 0 {
		return true
	}
	r.budget.waiting.Add(-int64(size))
	// The consumer is not cancelled: the next one would get later deliveries before the
	// broker has those back that are not accepted.
	r.over = true
	r.next = max(1, min(r.consumer.idle.prefetch/2, r.budget.prefetchFor(r.largest, r.full)))
	return false
}

// discard takes deliveries until there are no more.
func discard(deliveries <-chan amqp.Delivery) {
	for range deliveries {
	}
}

// maybeRaise cancels the consumer if the bodies have been so small for a while that it may
// have twice the prefetch count.
func (r *reception) maybeRaise(size int, now time.Time) {
	r.largest = max(r.largest, size)
	if now.Sub(r.since) < raiseEvery || r.next > 0 {
		return
	}
	if prefetch := r.budget.prefetchFor(r.largest, r.full); prefetch >= 2*r.consumer.idle.prefetch {
		r.next = prefetch
		r.cancelling.Go(func() {
			r.consumer.Cancel() // on an error the channel is lost, which has the same effect
		})
	}
	r.largest, r.since = 0, now
}
