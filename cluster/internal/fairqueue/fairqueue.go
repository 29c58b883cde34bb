package fairqueue

import (
	"context"
	"math"
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

	// floodShares is the part for a caller that floods, while another one asks that does not. A request of
	// the other caller waits for what the flood has under way. It waits at the broker too, since the
	// replies of a group commit and the requests that follow them come all at once.
	floodShares = 16

	// A caller is judged each time that judgeAfter times its share of its requests are complete. It floods if
	// it had one and a half times its share or more under way and waiting on average, now and the last time,
	// and about as many both times: the difference is less than a steady part of what was completed. A
	// caller whose backlog is left from a pause works it off, and needs its share for that.
	judgeAfter = 16
	steady     = 0.1

	// If a caller that floods fills the room, it does not wait for replies before it sends more. It may be
	// one that could have everything carried out with its share. It does not flood for sparedFor.
	sparedFor = time.Minute
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
	floods   int       // how many callers flood
	forgot   time.Time // when callers were forgotten last
	closed   bool
}

// A caller has requests under way or waiting, or has asked a short time ago.
type caller[T any] struct {
	waiting  []T
	underWay int
	asked    time.Time // the last time

	floods bool
	spared time.Time // it does not flood before

	counted time.Time // up to when its requests here are counted
	period  period    // since it was judged
	before  float64   // how many requests were here on average until it was judged
}

// A period is what a caller is judged by.
type period struct {
	completed int     // requests
	seconds   float64 // how long it has been
	sum       float64 // of the requests here, times the seconds for which there were so many
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
		c = &caller[T]{counted: at}
		q.callers[from] = c
	}
	c.count(at)
	c.asked = at
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
	c.asked = at
	c.underWay--
	q.underWay--
	q.judgeLocked(c, at)
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
	case q.underWay >= q.limit:
		return false
	case len(q.callers) == 1:
		return true
	case c.floods && q.floods < len(q.callers):
		return c.underWay < q.limit/floodShares
	}
	return c.underWay < q.limit/shares
}

// judgeLocked decides whether a caller floods, when one of its requests is complete. No caller does if the
// room is taken, of which a quarter may be requests whose acknowledgements wait: the broker may then have
// more requests. Those of other callers cannot overtake them, so they are to be carried out fast.
func (q *Queue[C, T]) judgeLocked(c *caller[T], at time.Time) {
	c.period.completed++
	if c.underWay+len(c.waiting) == 0 {
		q.setFloodsLocked(c, false)
		c.period, c.before = period{}, 0
		return
	}
	full := q.underWay+q.waiting > q.room*3/4
	share := max(1, q.limit/shares)
	if !full && c.period.completed < judgeAfter*share || c.period.seconds == 0 {
		return
	}
	now := c.period.sum / c.period.seconds
	grown, completed := now-c.before, float64(c.period.completed)
	switch {
	case full:
		if c.floods {
			c.spared = at.Add(sparedFor)
		}
		q.setFloodsLocked(c, false)
	case c.floods:
		q.setFloodsLocked(c, now >= float64(share) && grown > -steady*completed)
	default:
		q.setFloodsLocked(c, min(c.before, now) >= 1.5*float64(share) && math.Abs(grown) < steady*completed && !at.Before(c.spared))
	}
	c.period, c.before = period{}, now
}

func (q *Queue[C, T]) setFloodsLocked(c *caller[T], floods bool) {
	switch {
	case floods && !c.floods:
		q.floods++
	case !floods && c.floods:
		q.floods--
	}
	c.floods = floods
}

// count counts the requests of a caller up to a time, and is called before their number changes.
func (c *caller[T]) count(at time.Time) {
	if since := at.Sub(c.counted).Seconds(); since > 0 {
		c.period.seconds += since
		c.period.sum += since * float64(c.underWay+len(c.waiting))
		c.counted = at
	}
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
