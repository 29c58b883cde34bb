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

	// floodShares is the same for a caller that floods, while one asks that has no requests waiting. What
	// a flood has under way is what a request of the other caller waits for, at the broker too, since
	// the replies of a group commit and the requests that follow them come all at once.
	floodShares = 16

	// A caller is judged each time that judgeAfter times its share was completed for it. It floods if its
	// requests under way and waiting were half more than its share on average, now and the last time, and
	// have not become less by a twentieth of what was completed. A caller whose backlog is left from a
	// pause works it off, and needs its share for that.
	judgeAfter = 8
	shrinksBy  = 20
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
	forgot   time.Time // when callers were forgotten last
	closed   bool
}

// A caller has requests under way or waiting, or has asked a short time ago.
type caller[T any] struct {
	waiting  []T
	underWay int
	asked    time.Time // the last time

	floods bool

	// For judging it:
	completed int           // requests since the last time
	elapsed   time.Duration // since then
	sum       float64       // of its requests here, multiplied by for how long there were so many
	counted   time.Time     // up to when
	before    int           // how many there were on average until the last time
}

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
		c = new(caller[T])
		q.callers[from] = c
	}
	c.asked = at
	c.count(at)
	q.forgetLocked(at)
	if len(c.waiting) == 0 && q.starting != c && q.mayStartLocked(c) && !slices.ContainsFunc(q.turns, q.mayStartLocked) {
		c.underWay++
		q.underWay++
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
	c.count(at)
	c.underWay--
	q.underWay--
	q.judgeLocked(c)
	q.forgetLocked(at)
	if q.waiting > 0 {
		q.wake.Notify()
	}
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
		for request, ok := q.next(); ok; request, ok = q.next() {
			q.start(request)
		}
	}
}

// next returns the next request that may start. It is under way then.
func (q *Queue[C, T]) next() (request T, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.starting = nil
	i := slices.IndexFunc(q.turns, q.mayStartLocked)
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
	c.underWay++
	q.underWay++
	q.starting = c
	return request, true
}

// mayStartLocked reports whether a caller may have one more request under way. One that has none may
// also exceed the limit, so that requests which take long do not keep all other callers waiting.
func (q *Queue[C, T]) mayStartLocked(c *caller[T]) bool {
	switch {
	case c.underWay == 0:
		return q.underWay < 2*q.limit
	case len(q.callers) == 1:
		return q.underWay < q.limit
	case c.floods && len(q.turns) < len(q.callers):
		return q.underWay < q.limit && c.underWay < q.limit/floodShares
	}
	return q.underWay < q.limit && c.underWay < q.limit/shares
}

// judgeLocked decides whether a caller floods, when one of its requests is complete. No caller does if the
// room is almost taken: the broker may then have more requests, which nobody can pass, and which are to
// be worked off fast.
func (q *Queue[C, T]) judgeLocked(c *caller[T]) {
	share := max(1, q.limit/shares)
	c.completed++
	switch {
	case q.underWay+q.waiting > q.room*3/4:
		c.before, c.floods = 0, false
	case c.completed < judgeAfter*share || c.elapsed == 0:
		return
	default:
		now := int(c.sum / c.elapsed.Seconds())
		c.floods = min(c.before, now) >= 3*share/2 && c.before-now < c.completed/shrinksBy
		c.before = now
	}
	c.completed, c.elapsed, c.sum = 0, 0, 0
}

// count counts the requests of a caller up to a time, and is called before their number changes.
func (c *caller[T]) count(at time.Time) {
	if since := at.Sub(c.counted); !c.counted.IsZero() && since > 0 {
		c.elapsed += since
		c.sum += since.Seconds() * float64(c.underWay+len(c.waiting))
	}
	c.counted = at
}

// forgetLocked forgets the callers that do not ask any more, once in asksFor.
func (q *Queue[C, T]) forgetLocked(at time.Time) {
	if at.Sub(q.forgot) < asksFor {
		return
	}
	q.forgot = at
	for from, c := range q.callers {
		if c.underWay == 0 && len(c.waiting) == 0 && at.Sub(c.asked) >= asksFor {
			delete(q.callers, from)
		}
	}
}
