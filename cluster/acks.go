package cluster

import (
	"slices"
	"sync"
	"time"
)

// acks gathers what is to be acknowledged on a channel: the broker then takes
// note of many requests at once, which costs it, above all in a quorum queue,
// hardly more than one. Meanwhile they count as not acknowledged: should this
// instance die, they come again, and are answered again.
type acks struct {
	prefetch int // deliveries that are not acknowledged
	send     func(tag uint64, multiple bool) error

	mu   sync.Mutex          // guards the following fields, and is held while something is sent
	open map[uint64]struct{} // delivery tags that were taken, and not done
	done []uint64            // delivery tags that are to be acknowledged
}

const (
	// ackAfter is how long an acknowledgement may wait for others.
	ackAfter = 50 * time.Millisecond

	// ackShare is which part of the prefetch count may wait to be acknowledged.
	ackShare = 4
)

func newAcks(prefetch int, send func(tag uint64, multiple bool) error) *acks {
	return &acks{prefetch: prefetch, send: send, open: make(map[uint64]struct{})}
}

// take notes a delivery. All of the channel have to be noted, in their order. If
// the broker sends no more until some are acknowledged, those that wait are now.
func (a *acks) take(tag uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[tag] = struct{}{}
	if a.fullLocked() {
		a.flushLocked() // an error is the line's end
	}
}

func (a *acks) fullLocked() bool { return len(a.open)+len(a.done) >= a.prefetch }

// add notes that a delivery is to be acknowledged. Where it is the first of those
// that wait, the caller sees to it that flush is called. If it is urgent, or many
// wait, or the broker sends no more until some are, all are acknowledged now.
func (a *acks) add(tag uint64, urgent bool) (first bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, tag)
	a.done = append(a.done, tag)
	if urgent || len(a.done) >= a.prefetch/ackShare || a.fullLocked() {
		return false, a.flushLocked()
	}
	return len(a.done) == 1, nil
}

// refuse notes that a delivery is not to be acknowledged, once nack has told the
// broker so.
func (a *acks) refuse(tag uint64, nack func() error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := nack()
	delete(a.open, tag)
	return err
}

// flush acknowledges all that waits.
func (a *acks) flush() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.flushLocked()
}

// none reports whether nothing that was taken waits to be acknowledged.
func (a *acks) none() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.open)+len(a.done) == 0
}

// flushLocked acknowledges at once what was taken before the first delivery that
// is open still, and the rest one by one.
func (a *acks) flushLocked() error {
	if len(a.done) == 0 {
		return nil
	}
	slices.Sort(a.done)
	together := len(a.done)
	for tag := range a.open {
		n, _ := slices.BinarySearch(a.done, tag)
		together = min(together, n)
	}
	var err error
	if together > 0 {
		err = a.send(a.done[together-1], together > 1)
	}
	for _, tag := range a.done[together:] {
		if err == nil {
			err = a.send(tag, false)
		}
	}
	a.done = a.done[:0]
	return err
}
