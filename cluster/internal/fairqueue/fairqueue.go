package fairqueue

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/glotpod/ident/cluster/wait"
)

const (
	// asksFor is how long a caller counts as one that asks after its last request. In that time
	// the others keep to their shares, so that its next request does not wait for what they have
	// under way.
	asksFor = time.Second

	// shares says which part of the limit a caller may have under way while others ask: a quarter.
	// With the usual limit of 256 that is enough for group commits, and a request of another caller
	// waits for a fourth of what it would wait for without.
	shares = 4
)

// A Queue bounds the number of requests under way, and decides which one starts next. Callers are
// told apart by values of type C. All methods are safe for concurrent use, but only one goroutine
// may call Add, and one Run.
type Queue[C comparable, T any] struct {
	start func(T)
	wake  wait.Signal // a request that waits may be able to start

	mu       sync.Mutex // guards the following fields
	limit    int
	room     int
	callers  map[C]*caller[T]
	turns    []*caller[T] // with requests that wait; the first one that has a free share is next
	starting *caller[T]   // of the request that Run starts now; nil: none
	underWay int
	waiting  int
	floods   int         // how many callers flood
	calm     time.Time   // when a request came, or was completed, of a caller that has little here
	pressing bool        // such requests come often
	released *time.Timer // wakes the queue when they do not any more
	forgot   time.Time   // when callers were forgotten last
	closed   bool
}

// A caller has requests under way or waiting, or has asked a short time ago.
type caller[T any] struct {
	waiting  []T
	underWay int
	asked    time.Time // the last time

	flood
}

// here returns how many requests of the caller are under way or wait.
func (c *caller[T]) here() int { return c.underWay + len(c.waiting) }

// New returns a queue with at most limit requests under way. If there are more callers, they may
// have one request each beyond that, up to twice the limit. Run calls start for each request that had
// to wait. start must not block.
func New[C comparable, T any](limit int, start func(T)) *Queue[C, T] {
	return &Queue[C, T]{limit: limit, start: start, wake: wait.NewSignal(), callers: make(map[C]*caller[T])}
}

// Add adds a request of a caller that came at a time. If it can start at once, Add returns
// atOnce, and the request is under way: it is not passed to start. Otherwise Run starts it. The requests of
// one caller start in the order in which they were added. If the queue is closed, Add does
// nothing and returns closed.
func (q *Queue[C, T]) Add(from C, request T, at time.Time) (atOnce, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false, true
	}
	c := q.callers[from]
	if c == nil {
		c = &caller[T]{flood: flood{counted: at}}
		q.callers[from] = c
	}
	if q.isCalmLocked(c) {
		q.pressing = at.Sub(q.calm) < often
	}
	q.noteLocked(c, at)
	q.forgetLocked(at)
	mayStart := func(c *caller[T]) bool { return q.mayStartLocked(c, at) }
	if len(c.waiting) == 0 && q.starting != c && mayStart(c) && !slices.ContainsFunc(q.turns, mayStart) {
		q.startLocked(c, at)
		return true, false
	}
	c.waiting = append(c.waiting, request)
	q.waiting++
	if len(c.waiting) == 1 {
		q.turns = append(q.turns, c)
	}
	q.wake.Notify() // if the caller's request before it is the one that Run starts
	return false, false
}

// Done notes that a request that was started is complete.
func (q *Queue[C, T]) Done(from C, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	c := q.callers[from]
	q.noteLocked(c, at)
	c.underWay--
	q.underWay--
	q.restLocked(c, at)
	q.judgeLocked(c, at)
	q.forgetLocked(at)
	if q.waiting > 0 {
		q.wake.Notify()
	}
}

// noteLocked notes that a request of a caller has come, or is complete.
func (q *Queue[C, T]) noteLocked(c *caller[T], at time.Time) {
	c.count(at, c.here())
	c.asked = at
	q.noteCalmLocked(c, at)
}

// SetLimit changes the limit. If more requests are under way, none starts until enough are complete.
func (q *Queue[C, T]) SetLimit(limit int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit = limit
	q.wake.Notify()
}

// SetRoom changes how many requests may be under way or waiting, since the broker does not deliver more.
// It is 0 at first.
func (q *Queue[C, T]) SetRoom(room int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.room = room
}

// Callers returns how many callers ask.
func (q *Queue[C, T]) Callers() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.callers)
}

// Waiting returns how many requests wait.
func (q *Queue[C, T]) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting
}

// Close closes the queue, and returns the requests that wait. They are not started any more.
func (q *Queue[C, T]) Close() (waiting []T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range q.turns {
		waiting = append(waiting, c.waiting...)
	}
	q.turns, q.waiting, q.closed = nil, 0, true
	return waiting
}

// Run starts the requests that wait, when it is their turn, until ctx is done.
func (q *Queue[C, T]) Run(ctx context.Context) {
	for {
		select {
		case <-q.wake:
		case <-ctx.Done():
			return
		}
		for request, ok := q.next(time.Now()); ok; request, ok = q.next(time.Now()) {
			q.start(request)
		}
	}
}

// next returns the next request that may start. It is under way then.
func (q *Queue[C, T]) next(at time.Time) (request T, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.starting = nil
	i := slices.IndexFunc(q.turns, func(c *caller[T]) bool { return q.mayStartLocked(c, at) })
	if i < 0 {
		return request, false
	}
	c := q.turns[i]
	request = c.waiting[0]
	clear(c.waiting[:1]) // so that the array does not keep it
	c.waiting = c.waiting[1:]
	q.turns = slices.Delete(q.turns, i, i+1)
	if len(c.waiting) > 0 {
		q.turns = append(q.turns, c)
	}
	q.waiting--
	q.startLocked(c, at)
	q.starting = c
	return request, true
}

// startLocked notes that a request of a caller is under way from now on.
func (q *Queue[C, T]) startLocked(c *caller[T], at time.Time) {
	if c.underWay == 0 || c.burstBegan.Before(c.restsUntil) {
		c.burstBegan = at
	}
	c.underWay++
	q.underWay++
}

// mayStartLocked reports whether a caller may have one more request under way. One that has none may
// also exceed the limit, so that requests which take long do not keep all other callers waiting.
func (q *Queue[C, T]) mayStartLocked(c *caller[T], at time.Time) bool {
	held := q.isHeldLocked(c, at)
	switch {
	case held && at.Before(c.restsUntil):
		return false
	case c.underWay == 0:
		return q.underWay < 2*q.limit
	case q.underWay >= q.limit:
		return false
	case len(q.callers) == 1:
		return true
	case held:
		return c.underWay < q.slotsLocked()
	}
	return c.underWay < q.shareLocked()
}

// forgetLocked forgets the callers that do not ask any more, once in asksFor.
func (q *Queue[C, T]) forgetLocked(at time.Time) {
	if at.Sub(q.forgot) < asksFor {
		return
	}
	q.forgot = at
	for from, c := range q.callers {
		if c.underWay == 0 && len(c.waiting) == 0 && at.Sub(c.asked) >= asksFor {
			q.setFloodLocked(c, false)
			delete(q.callers, from)
		}
	}
}
