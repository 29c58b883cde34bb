package fairqueue

import "time"

const (
	// A caller is judged each time that judgeAfter times what it may have under way is complete. It floods if
	// it had its share or more under way and waiting on average, now and the last time, if they have not
	// become fewer by a steady part of what was completed or more, nor more by that and half of them.
	// A caller whose backlog is left from a pause works it off, and needs its share for that.
	judgeAfter = 16
	steady     = 0.1

	// A caller that floods is held back while others ask again less than often after a reply or a
	// request. Nobody would gain if it were held back for a caller that asks once in a while.
	often = asksFor / 4

	// floodShares is the part of the limit that a caller may have under way while it is held back. A request
	// of another caller waits for that. It waits at the broker too, since the replies of a group
	// commit and the requests that follow them come all at once.
	floodShares = 16

	// A caller that is held back rests after each of these bursts: for restTimes the time that the burst took, but
	// restAtMost, if it has twice its share or more, and for less if it has less. Its requests would
	// otherwise use all processors, also those of the broker and the database, and the requests of others would
	// wait everywhere.
	restTimes  = 8
	restAtMost = asksFor / 10

	// If the backlog of a caller that floods has grown openAfter times in succession when it is judged, it
	// does not wait for replies before it sends more. It may be one that could have everything carried out
	// with its share. So it does not flood for sparedFor, and twice as long each time, up to
	// sparedAtMost.
	openAfter    = 3
	sparedFor    = 2 * time.Second
	sparedAtMost = 1800 * sparedFor
)

// A flood is what is known about whether a caller floods.
type flood struct {
	floods bool          // it is held back while others ask often
	grew   int           // how many times in succession its backlog had grown when it was judged
	spared time.Time     // it does not flood before
	spare  time.Duration // how long it was spared the last time

	burst time.Time // when its present burst began
	rests time.Time // until then it rests
	wake  *time.Timer

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

// count counts the requests of a caller up to a time, and is called before their number changes.
func (f *flood) count(at time.Time, here int) {
	if since := at.Sub(f.counted).Seconds(); since > 0 {
		f.period.seconds += since
		f.period.sum += since * float64(here)
		f.counted = at
	}
}

// spareFrom has the caller not flood for a while.
func (f *flood) spareFrom(at time.Time) {
	f.spare = min(max(2*f.spare, sparedFor), sparedAtMost)
	f.spared = at.Add(f.spare)
}

// Precedes reports whether a caller floods, and this one does not: its requests should not wait for others.
func (q *Queue[C, T]) Precedes(from C) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.floods == 0 {
		return false
	}
	c := q.callers[from]
	return c == nil || !c.floods
}

// Floods returns how many callers flood.
func (q *Queue[C, T]) Floods() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.floods
}

// isHeldLocked reports whether a caller floods, and is held back because others ask that do not.
func (q *Queue[C, T]) isHeldLocked(c *caller[T], at time.Time) bool {
	return c.floods && q.pressing && at.Sub(q.calm) < often
}

// shareLocked returns how many requests a caller may have under way while others ask.
func (q *Queue[C, T]) shareLocked() int { return max(1, q.limit/shares) }

// restLocked has a caller rest that is held back, when a request of its burst is complete.
func (q *Queue[C, T]) restLocked(c *caller[T], at time.Time) {
	excess := float64(c.underWay+len(c.waiting))/float64(q.shareLocked()) - 1
	rest := time.Duration(min(restTimes*min(excess, 1)*float64(at.Sub(c.burst)), float64(restAtMost)))
	if rest <= 0 || !q.isHeldLocked(c, at) {
		c.burst = at
		return
	}
	c.rests = at.Add(rest)
	if c.wake == nil {
		c.wake = time.AfterFunc(rest, q.wake.Notify)
	} else {
		c.wake.Reset(rest)
	}
}

// judgeLocked decides whether a caller floods, when one of its requests is complete. No caller does if the
// room is taken, of which a quarter may be requests whose acknowledgements wait: the broker may then have
// more requests. Those of other callers cannot overtake them, so they are to be carried out fast.
func (q *Queue[C, T]) judgeLocked(c *caller[T], at time.Time) {
	c.period.completed++
	full := q.underWay+q.waiting > q.room*3/4
	share := q.shareLocked()
	enough := judgeAfter * share
	if q.isHeldLocked(c, at) {
		enough = judgeAfter * max(1, q.limit/floodShares)
	}
	if !full && c.period.completed < enough || c.period.seconds == 0 {
		return
	}
	now := c.period.sum / c.period.seconds
	grown, change := now-c.before, steady*float64(c.period.completed)
	if grown > max(change, c.before/10) {
		c.grew++
	} else {
		c.grew = 0
	}
	switch {
	case c.floods && (full || c.grew == openAfter):
		c.spareFrom(at)
		q.setFloodsLocked(c, false)
	case c.floods:
		q.setFloodsLocked(c, now >= float64(share) && grown > -change)
	default:
		isSteady := -change < grown && grown < max(change, c.before/2)
		q.setFloodsLocked(c, !full && isSteady && min(c.before, now) >= float64(share) && !at.Before(c.spared))
	}
	c.period, c.before = period{}, now
}

func (q *Queue[C, T]) setFloodsLocked(c *caller[T], floods bool) {
	switch {
	case floods && !c.floods:
		q.floods++
		c.grew = 0
		q.calm, q.pressing = time.Time{}, false // it may have been this caller that asked
	case !floods && c.floods:
		q.floods--
	}
	c.floods = floods
}
