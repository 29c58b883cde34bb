package ownership

import (
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// maybeHandOver hands over a partition that the ring assigns to another member, once
// that member asks for it. Earlier the partition would only be idle. An instance that
// drains or leaves does not wait for ever: if no member asks, it releases the
// partition.
func (ps *partitions) maybeHandOver(p int) {
	part := &ps.states[p]
	owner := ps.members.find(ps.ring.owners[p])
	var to Member
	switch {
	case ps.releasing:
	case owner != nil && owner.wantsLease(p, part.epoch):
		ps.pacing.lastWishAt = ps.now
		if ps.pacing.limitReached(ps.now) {
			ps.pacing.queued = true
			return
		}
		to = owner.Member
	case ps.state == Ready:
		return
	case len(ps.ring.names) > 0 && ps.now.Sub(ps.pacing.lastWishAt) < wishAfter*ps.cfg.Heartbeat:
		return
	}
	ps.transition(p, handingOver)
	ps.emit(HandOver{Lease: heldLease(p, part.epoch, ps.self), To: to})
}

// onWish handles a wish of a member for a lease of ours. If the partition is idle here,
// the lease was won by a claim and the reply was lost, or the news of its end was lost;
// it is released again. But shortly after its end, the wish and the news may have
// crossed.
func (ps *partitions) onWish(lease partition.Lease) {
	if !ps.contains(lease.Partition) {
		return
	}
	part := &ps.states[lease.Partition]
	switch {
	case part.phase == owned:
		ps.reconcile(lease.Partition)
	case part.phase == idle && ps.now.Sub(part.since) >= ps.cfg.Heartbeat/checksPerHeartbeat:
		ps.release(lease)
	}
}

// onHandedOver notes that a hand-over is complete. The grant is sent to the new holder
// in any case.
func (ps *partitions) onHandedOver(e HandedOver) {
	if e.To != (Member{}) {
		ps.outbox.grants = append(ps.outbox.grants, heldLease(e.Partition, e.Epoch+1, e.To))
	}
	part := &ps.states[e.Partition]
	if e.To != (Member{}) {
		part.saw(e.Epoch + 1)
	}
	if part.phase != handingOver || part.epoch != e.Epoch {
		return
	}
	part.setbacks = 0
	ps.pacing.rest(ps.now, ps.now.Sub(part.since))
	ps.transition(e.Partition, idle)
	if e.To == (Member{}) {
		ps.announceReleased(LeaseReleased{Partition: e.Partition, Epoch: e.Epoch})
	}
	ps.reconcile(e.Partition)
}

// resumeHandovers hands over the partitions that had to wait.
func (ps *partitions) resumeHandovers() {
	for p := range ps.states {
		if ps.states[p].phase == owned {
			ps.reconcile(p)
		}
	}
}

// announceReleased tells the members that wait for a lease of ours that it is released.
func (ps *partitions) announceReleased(e LeaseReleased) {
	if !ps.state.connected() {
		return
	}
	ps.outbox.facts.Released = append(ps.outbox.facts.Released, heldLease(e.Partition, e.Epoch, ps.self))
	ps.sendSoon()
}

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
