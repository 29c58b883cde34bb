// Package wait holds the ways in which this program waits: a pause that a context
// can end ([For]), pauses that grow from one failed attempt to the next
// ([Backoff]), attempts to reach a server until they are of no use ([Retrier]), and a
// wake-up signal for one goroutine ([Signal]).
//
// It imports nothing of this module, so that every package can use it.
package wait

import (
	"context"
	"math/rand/v2"
	"time"
)

// For waits for d. If ctx is done first, For returns ctx's error at once.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A Backoff computes the pauses between attempts that keep failing. The first pause
// is First long; each further one is twice as long as the one before, up to Longest.
// Each pause is shortened at random by up to half (jitter), so that instances that
// fail together do not try again together.
//
// First must be positive, and Longest not less than First. A Backoff is not safe for
// concurrent use.
type Backoff struct {
	First, Longest time.Duration

	next time.Duration // the length of the next pause before jitter; 0 means First
}

// Next returns the length of the next pause.
func (b *Backoff) Next() time.Duration {
	length := max(b.First, b.next)
	b.next = min(2*length, b.Longest)
	return length - rand.N(length/2+1)
}

// Wait waits for the next pause. If ctx is done first, Wait returns ctx's error at
// once.
func (b *Backoff) Wait(ctx context.Context) error { return For(ctx, b.Next()) }

// Reset makes the next pause a first one again. It is called after a success.
func (b *Backoff) Reset() { b.next = 0 }

// A Signal wakes one goroutine up. Notifications that arrive before the goroutine
// receives from the Signal count as one. Any number of goroutines may notify.
type Signal chan struct{}

// NewSignal returns a Signal without a notification.
func NewSignal() Signal { return make(Signal, 1) }

// Notify wakes up the goroutine that receives from s, now or at its next receive. It
// does not block.
func (s Signal) Notify() {
	select {
	case s <- struct{}{}:
	default:
	}
}
