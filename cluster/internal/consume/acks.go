package consume

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// AckDelay is how long an acknowledgement may wait for others: long enough to send
	// many together at a high rate, and short enough that few requests are delivered
	// again when an instance dies.
	AckDelay = 50 * time.Millisecond

	// ackShare says which part of the prefetch count may wait to be acknowledged: a
	// quarter. So most of it remains for requests that are in flight.
	ackShare = 4

	// scanAtMost bounds the number of acknowledgements that wait, but for those of the oldest deliveries,
	// times the number of deliveries in flight. For an acknowledgement that is not that of the oldest
	// delivery, RabbitMQ goes through all that are older. It delivers nothing on the channel meanwhile: with 30 acknowledgements and 1,000 deliveries, for 5 ms.
	// A prefetch count of 256 never leads to so many.
	scanAtMost = 12288
)

// acks gathers the acknowledgements of one channel.
type acks struct {
	prefetch int // the broker sends this many deliveries that are not acknowledged
	send     func(tag uint64, multiple bool) error

	mu      sync.Mutex          // guards the following fields; held while acknowledgements are sent
	open    map[uint64]struct{} // tags of deliveries that are in flight
	first   uint64              // all tags before it are settled or wait
	last    uint64              // the last tag
	waiting []uint64            // tags of deliveries that are to be acknowledged
	costly  int                 // how many of them were behind one in flight when they came
}

func newAcks(prefetch int, send func(tag uint64, multiple bool) error) *acks {
	return &acks{prefetch: prefetch, send: send, open: make(map[uint64]struct{})}
}

// track notes a delivery. Each delivery of the channel must be tracked, in order. If it
// is the last one that the broker sends without an acknowledgement, those that wait are
// sent.
func (a *acks) track(tag uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[tag] = struct{}{}
	a.last = tag
	if a.fullLocked() {
		a.flushLocked() // on an error the channel is closed
	}
}

func (a *acks) fullLocked() bool { return len(a.open)+len(a.waiting) >= a.prefetch }

// add notes that a delivery is to be acknowledged. All acknowledgements are sent at once
// if this one is urgent, if many wait, if they cost the broker much, or if it sends no more deliveries
// until some are acknowledged. Otherwise, if this is the first one that waits, add returns
// true, and the caller must see that flush is called.
func (a *acks) add(tag uint64, urgent bool) (first bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, tag)
	a.waiting = append(a.waiting, tag)
	if a.advanceLocked(); a.first < tag {
		a.costly++
	}
	if urgent || a.costly*len(a.open) > scanAtMost || len(a.waiting) >= a.prefetch/ackShare || a.fullLocked() {
		return false, a.flushLocked()
	}
	return len(a.waiting) == 1, nil
}

// reject calls nack, and notes that the delivery will not be acknowledged.
func (a *acks) reject(tag uint64, nack func() error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := nack()
	delete(a.open, tag)
	return err
}

// flush sends all acknowledgements that wait.
func (a *acks) flush() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.flushLocked()
}

// settled reports whether all deliveries have been acknowledged or rejected.
func (a *acks) settled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.open)+len(a.waiting) == 0
}

// flushLocked acknowledges with one message all deliveries before the first one that is
// still in flight, and the others one by one.
func (a *acks) flushLocked() error {
	if len(a.waiting) == 0 {
		return nil
	}
	slices.Sort(a.waiting)
	a.advanceLocked()
	together, _ := slices.BinarySearch(a.waiting, a.first)
	var err error
	if together > 0 {
		err = a.send(a.waiting[together-1], together > 1)
	}
	for _, tag := range a.waiting[together:] {
		if err == nil {
			err = a.send(tag, false)
		}
	}
	a.waiting, a.costly = a.waiting[:0], 0
	return err
}

// advanceLocked looks for the first delivery that is in flight.
func (a *acks) advanceLocked() {
	for ; a.first <= a.last; a.first++ {
		if _, ok := a.open[a.first]; ok {
			return
		}
	}
}

// An AckFlusher sends the acknowledgements of consumers that have waited for others for
// [AckDelay].
type AckFlusher struct {
	consumers *batchqueue.Queue[*Consumer] // with acknowledgements that wait
}

// NewAckFlusher returns an AckFlusher that sends nothing before Run is called.
func NewAckFlusher() *AckFlusher { return &AckFlusher{batchqueue.New[*Consumer]()} }

// Add has FlushAcks of a consumer called soon.
func (f *AckFlusher) Add(c *Consumer) { f.consumers.Put(c) }

// Run sends acknowledgements until ctx is done. Requests that are not acknowledged then
// are delivered again.
func (f *AckFlusher) Run(ctx context.Context) {
	for f.consumers.Wait(ctx) {
		if wait.For(ctx, AckDelay) != nil {
			return
		}
		for _, c := range f.consumers.Take() {
			c.FlushAcks() // on an error the channel is closed
		}
	}
}
