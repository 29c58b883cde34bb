// Package silence decides when a member that is not heard of is suspected to be dead, and for
// how long one is spared that proves to live all the same.
//
// Each heartbeat says when the next one is due. A member is suspected if two of its
// heartbeats are overdue, by a margin. The margin is twice the longest delay that its
// heartbeats had of late, within limits.
//
// The time during which a member is silent counts by a [Clock], which stands still while
// the heartbeats of this instance do not come back to it. They go the same way as those
// of the others. So if the broker pauses or blocks publishing, or if this instance is
// frozen, starved or cut off, no member is suspected.
//
// # Whose ideas these are
//
// That the limit follows the intervals that were seen is the idea of the φ accrual failure
// detector (Hayashibara, Défago, Yared and Katayama: The φ Accrual Failure Detector, 2004).
// It assumes that the intervals have a normal distribution. Here they do not: on two
// overloaded cores, half of the heartbeats of five instances come within 1 ms of their time,
// 99 % within 0.3 s, all within 1 s, and those of a machine that has paused at any time later.
// A variance does not describe that, so the longest delay counts, and half of it is
// forgotten each minute. A member that was suspected wrongly has had the longest delay of all. So
// it is not suspected again soon.
//
// That an instance first doubts itself is the idea of Lifeguard (Dadgar, Phillips and Currey:
// Lifeguard: SWIM-ing with Situational Awareness, 2018). There an instance estimates
// its health from the replies that it misses. Here all heartbeats go through one exchange,
// so its own ones tell, and no estimate is needed.
package silence

import (
	"math"
	"time"
)

const (
	// unknownInterval is when the next heartbeat is due if the member does not say so, as
	// an older program.
	unknownInterval = 1100 * time.Millisecond

	// minMargin and maxMargin bound the margin.
	minMargin = 700 * time.Millisecond
	maxMargin = 4 * time.Second

	// halfLife is the time in which half of a delay is forgotten.
	halfLife = time.Minute

	// marginFactor is how many times as long as the longest delay the margin is.
	marginFactor = 2

	// intervals is how many heartbeats in a row are overdue when a member is suspected: any
	// message may be lost.
	intervals = 2
)

// A Clock is the time during which the heartbeats of this instance came back to it. The
// zero Clock stands still until the first one has.
type Clock struct {
	elapsed time.Duration // until echoAt
	echoAt  time.Time     // when a heartbeat last came back
	most    time.Duration // how long the clock runs on without the next one
}

// Echo notes that a heartbeat has come back, and when the next one is due after it.
func (c *Clock) Echo(now time.Time, next time.Duration) {
	c.elapsed = c.At(now)
	c.echoAt, c.most = now, next
}

// At returns the reading of the clock. It never falls if now does not.
func (c *Clock) At(now time.Time) time.Duration {
	return c.elapsed + min(max(0, now.Sub(c.echoAt)), c.most)
}

// IsStalled reports whether the clock stands still: no heartbeat has come back yet, or the next
// one is overdue by the least margin.
func (c *Clock) IsStalled(now time.Time) bool { return now.Sub(c.echoAt) > c.most+minMargin }

// A Watch is what is known of the heartbeats of one member. Its times are readings of a
// Clock. The zero Watch is that of a member that was last heard of at zero.
type Watch struct {
	heardAt time.Duration // when the latest message came
	next    time.Duration // when the next one was due after it; 0 if the member did not say so
	delay   time.Duration // the longest of late
}

// Since returns the watch of a member of which nothing was heard yet, and that is known
// since at.
func Since(at time.Duration) Watch { return Watch{heardAt: at} }

// Heard notes a message of the member, and when the next one is due after it: zero if the
// message does not say so.
func (w *Watch) Heard(at, next time.Duration) {
	since := w.For(at)
	kept := float64(w.delay) * math.Exp2(-float64(since)/float64(halfLife))
	w.delay = min(max(time.Duration(kept), since-w.interval()), maxMargin/marginFactor)
	w.heardAt, w.next = at, next
}

// For returns for how long the member has been silent.
func (w *Watch) For(at time.Duration) time.Duration { return max(0, at-w.heardAt) }

// Limit returns for how long the member may be silent.
func (w *Watch) Limit() time.Duration {
	return intervals*w.interval() + min(max(marginFactor*w.delay, minMargin), maxMargin)
}

// IsOverdue reports whether the member is silent for longer than that.
func (w *Watch) IsOverdue(at time.Duration) bool { return w.For(at) > w.Limit() }

func (w *Watch) interval() time.Duration {
	if w.next == 0 {
		return unknownInterval
	}
	return w.next
}
