package fairqueue

import "time"

const (
	// A caller is judged each time that judgeAfter times what it may have under way is complete, and if it
	// floods, after judgeWithin at the latest. It floods if it had its share or more under way and waiting on
	// average, now and the last time, and is steady. That is, its average has not fallen by a tenth of
	// what was completed or more, and has grown by less than that or by less than a half. A caller
	// whose backlog is left from a pause works it off, and needs its share for that.
	judgeAfter  = 16
	judgeWithin = asksFor / 2
	steady      = 0.1

	// A caller that floods is held back while others that have little here ask often: each time within
	// this time after a request or a reply. Nobody would gain if it were held back for a caller that asks
	// once in a while.
	often = asksFor / 4

	// floodShares is the part of the limit that a caller may have under way while it is held back. A request
	// of another caller waits for that. It waits at the broker too, since the replies of a group
	// commit and the requests that follow them come all at once.
	floodShares = 16

	// A caller that is held back rests after each of these bursts: for restTimes the time that the burst took
	// if it has twice its share or more, and for less if it has less. Its requests would otherwise use all
	// processors, also those of the broker and the database, and the requests of others would wait
	// everywhere. It rests for restAtMost at most, and no longer than the bursts of all that it has
	// here would take restsInAll: its own requests must not expire.
	restTimes  = 8
	restAtMost = asksFor / 10
	restsInAll = asksFor

	// If the backlog of a caller that floods has grown openAfter times in succession when it is judged, by a
	// tenth or more, it does not wait for replies before it sends more. It may be one that could have everything
	// carried out with its share. So it does not flood for sparedFor, and twice as long each time, up to
	// sparedAtMost; and for up to three times as long again while it has the backlog that this has
	// left. The same holds if it has most of the room.
	openAfter    = 3
	sparedFor    = 10 * time.Second
	sparedAtMost = 360 * sparedFor
)

// A flood is what is known about whether a caller floods.
type flood struct {
	isFlood     bool          // it is held back while others ask often
	grew        int           // how many times in succession its backlog had grown when it was judged
	flooded     float64       // how many requests were here on average when it was found out
	sparedUntil time.Time     // it does not flood before
	sparedLast  time.Duration // how long it was spared the last time

	burstBegan time.Time
	restsUntil time.Time
	rested     *time.Timer // wakes the queue after a rest

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

// average returns how many requests were here on average. The period must not be empty.
func (p *period) average() float64 { return p.sum / p.seconds }

// count counts the requests of a caller up to a time, and is called before their number changes.
func (f *flood) count(at time.Time, here int) {
	if since := at.Sub(f.counted).Seconds(); since > 0 {
		f.period.seconds += since
		f.period.sum += since * float64(here)
		f.counted = at
	}
}

// average returns how many requests of the caller were here lately, on average.
func (f *flood) average() float64 {
	if f.period.seconds < often.Seconds() {
		return f.before
	}
	return f.period.average()
}

// spare has the caller not flood for a while.
func (f *flood) spare(at time.Time) {
	f.sparedLast = min(max(2*f.sparedLast, sparedFor), sparedAtMost)
	f.sparedUntil = at.Add(f.sparedLast)
}

// Precedes reports whether another caller floods, while this one has little here: its requests should not wait
// for others.
func (q *Queue[C, T]) Precedes(from C) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.callers[from]
	return q.floods > 0 && c != nil && q.isCalmLocked(c)
}

// Floods returns how many callers flood.
func (q *Queue[C, T]) Floods() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forgetLocked(time.Now())
	return q.floods
}

// isCalmLocked reports whether a caller does not flood, and has at most half its share here, now and on average.
func (q *Queue[C, T]) isCalmLocked(c *caller[T]) bool {
	here := max(float64(c.here()), c.average())
	return !c.isFlood && here <= max(1, float64(q.shareLocked())/2)
}

// isHeldLocked reports whether a caller floods, and is held back because others ask.
func (q *Queue[C, T]) isHeldLocked(c *caller[T], at time.Time) bool {
	return c.isFlood && q.pressing && at.Sub(q.calm) < often
}

// noteCalmLocked notes that a request of a caller came, or is complete, if the caller has little here. When
// such callers ask no more, those that flood may have more under way.
func (q *Queue[C, T]) noteCalmLocked(c *caller[T], at time.Time) {
	if !q.isCalmLocked(c) {
		return
	}
	q.calm = at
	if q.floods > 0 {
		q.wakeAfter(&q.released, often)
	}
}

// shareLocked returns how many requests a caller may have under way while others ask.
func (q *Queue[C, T]) shareLocked() int { return max(1, q.limit/shares) }

// slotsLocked returns how many requests a caller may have under way while it is held back.
func (q *Queue[C, T]) slotsLocked() int { return max(1, q.limit/floodShares) }

// restLocked has a caller rest that is held back, when a request of its burst is complete.
func (q *Queue[C, T]) restLocked(c *caller[T], at time.Time) {
	here := float64(c.here())
	excess := min(here/float64(q.shareLocked())-1, 1)
	rest := time.Duration(min(restTimes*excess*float64(at.Sub(c.burstBegan)), float64(restAtMost), float64(restsInAll)*float64(q.slotsLocked())/here))
	if excess <= 0 || !q.isHeldLocked(c, at) {
		c.burstBegan = at
		return
	}
	c.restsUntil = at.Add(rest)
	q.wakeAfter(&c.rested, rest)
}

// wakeAfter wakes the queue after d, by a timer that is made the first time.
func (q *Queue[C, T]) wakeAfter(timer **time.Timer, d time.Duration) {
	if *timer == nil {
		*timer = time.AfterFunc(d, q.wake.Notify)
	} else {
		(*timer).Reset(d)
	}
}

// judgeLocked decides whether a caller floods, when one of its requests is complete. No caller does if the
// room is taken, of which a quarter may be requests whose acknowledgements wait: the broker may then have
// more requests. Those of other callers cannot overtake them, so they are to be carried out fast.
func (q *Queue[C, T]) judgeLocked(c *caller[T], at time.Time) {
	c.period.completed++
	full := q.underWay+q.waiting > q.room*3/4
	share := q.shareLocked()
	held, mayHave := q.isHeldLocked(c, at), share
	if held {
		mayHave = q.slotsLocked()
	}
	isOver := c.period.completed >= judgeAfter*mayHave || c.isFlood && c.period.seconds >= judgeWithin.Seconds()
	if !full && !isOver || c.period.seconds == 0 {
		return
	}
	now := c.period.average()
	grown, change := now-c.before, steady*float64(c.period.completed)
	if held && grown > max(change, c.before/10) {
		c.grew++
	} else {
		c.grew = 0
	}
	switch {
	case held && (c.grew == openAfter || full && q.room > q.limit && c.here() > q.room/2):
		c.spare(at)
		q.setFloodLocked(c, false)
	case full:
		q.setFloodLocked(c, false)
	case c.isFlood:
		q.setFloodLocked(c, now >= float64(share))
	default:
		isSteady := -change < grown && grown < max(change, c.before/2)
		isSpared := at.Before(c.sparedUntil)
		if now > 2*c.flooded {
			isSpared = at.Before(c.sparedUntil.Add(3 * c.sparedLast)) // it works its backlog off
		}
		if q.setFloodLocked(c, isSteady && min(c.before, now) >= float64(share) && !isSpared); c.isFlood {
			c.flooded = now
		}
	}
	c.period, c.before = period{}, now
}

func (q *Queue[C, T]) setFloodLocked(c *caller[T], isFlood bool) {
	switch {
	case isFlood && !c.isFlood:
		q.floods++
		c.grew = 0
	case !isFlood && c.isFlood:
		q.floods--
	}
	c.isFlood = isFlood
}
