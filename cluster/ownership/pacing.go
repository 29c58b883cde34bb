package ownership

import (
	"slices"
	"time"
)

// A pacing limits the hand-overs that run at the same time, and has the instance rest
// between them.
type pacing struct {
	cfg        *Config
	running    []handover // in the order in which they began
	queued     bool       // members asked for leases that have to wait because of the limits
	restUntil  time.Time  // until then no hand-over begins on request
	lastWishAt time.Time  // when a member last asked for a lease that is to be handed over
}

// A handover is the hand-over of one partition.
type handover struct {
	partition int
	since     time.Time
}

// begin notes that a hand-over begins.
func (h *pacing) begin(p int, now time.Time) {
	h.running = append(h.running, handover{partition: p, since: now})
}

// end notes that a hand-over has ended, complete or not.
func (h *pacing) end(p int) {
	h.running = slices.DeleteFunc(h.running, func(o handover) bool { return o.partition == p })
}

// rest begins the rest after a hand-over that took so long.
func (h *pacing) rest(now time.Time, took time.Duration) {
	rest := min(restFactor*took, h.cfg.maxRest())
	h.restUntil = laterOf(h.restUntil, now.Add(rest))
}

// limitReached reports whether no further hand-over may begin now.
func (h *pacing) limitReached(now time.Time) bool {
	return len(h.running) >= h.cfg.Window || now.Before(h.nextAt())
}

// nextAt returns the time at which the next hand-over may begin, apart from the limit
// Window: after the rest, and once the usual number of hand-overs have ended or have
// taken long. A hand-over that takes long rather waits for a request than for the
// broker or the database.
func (h *pacing) nextAt() time.Time {
	next := h.restUntil
	if last := len(h.running) - h.cfg.usualHandovers(); last >= 0 {
		next = laterOf(next, h.running[last].since.Add(h.cfg.maxRest()))
	}
	return next
}

// wakeAt returns the later time at which queued hand-overs may go on, or the zero time
// if none is known.
func (h *pacing) wakeAt(now time.Time) time.Time {
	if next := h.nextAt(); h.queued && next.After(now) {
		return next
	}
	return time.Time{}
}

// takeQueued reports whether queued hand-overs may go on now. It clears the queue:
// those that still have to wait are queued again.
func (h *pacing) takeQueued(now time.Time) bool {
	if !h.queued || h.limitReached(now) {
		return false
	}
	h.queued = false
	return true
}
