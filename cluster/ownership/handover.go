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
func (c *Core) maybeHandOver(p int) {
	part := &c.partitions[p]
	owner := c.members[c.owners[p]]
	var to Member
	switch {
	case owner != nil && owner.wantsLease(p, part.epoch):
		c.lastWishAt = c.now
		if c.handoverLimitReached() {
			c.handoverQueued = true
			return
		}
		to = owner.Member
	case c.state == Ready:
		return
	case len(c.ring) > 0 && c.now.Sub(c.lastWishAt) < c.cfg.SuspectAfter:
		return
	}
	c.transition(p, handingOver)
	c.emit(HandOver{Partition: p, Epoch: part.epoch, To: to})
}

// handoverLimitReached reports whether no further hand-over may begin now.
func (c *Core) handoverLimitReached() bool {
	return len(c.handovers) >= c.cfg.Window || c.now.Before(c.nextHandoverAt())
}

// nextHandoverAt returns the time at which the next hand-over may begin, apart from the
// limit Window: after the rest, and once the usual number of hand-overs have ended or
// have taken long. A hand-over that takes long rather waits for a request than for the
// broker or the database.
func (c *Core) nextHandoverAt() time.Time {
	turn := c.restUntil
	if last := len(c.handovers) - c.cfg.usualHandovers(); last >= 0 {
		turn = laterOf(turn, c.partitions[c.handovers[last]].since.Add(c.cfg.maxRest()))
	}
	return turn
}

// wantsLease reports whether the member asks for our lease of a partition. Since the
// member last read the epoch table, we may have claimed the partition again under a
// later epoch.
func (m *member) wantsLease(p int, epoch int64) bool {
	return slices.ContainsFunc(m.wants, func(l HeldLease) bool { return l.Partition == p && l.Epoch <= epoch })
}

// onWish handles a wish of a member for a lease of ours. If the partition is idle here,
// the lease was won by a claim whose reply was lost, or the news of its end was lost;
// it is released again. But shortly after its end, the wish and the news may have
// crossed.
func (c *Core) onWish(lease HeldLease) {
	if !c.isPartition(lease.Partition) {
		return
	}
	part := &c.partitions[lease.Partition]
	switch {
	case part.phase == owned:
		c.reconcile(lease.Partition)
	case part.phase == idle && c.now.Sub(part.since) >= c.cfg.Heartbeat/checksPerHeartbeat:
		c.emit(Release{Partition: lease.Partition, Epoch: lease.Epoch})
	}
}

// onHandedOver notes that a hand-over is complete. The new holder is told in any case.
func (c *Core) onHandedOver(e HandedOver) {
	if e.To != (Member{}) {
		c.unsentGrants = append(c.unsentGrants, HeldLease{Lease: partition.Lease{Partition: e.Partition, Epoch: e.Epoch + 1}, Holder: e.To})
	}
	part := &c.partitions[e.Partition]
	if part.phase != handingOver || part.epoch != e.Epoch {
		return
	}
	part.setbacks = 0
	rest := min(restFactor*c.now.Sub(part.since), c.cfg.maxRest())
	c.restUntil = laterOf(c.restUntil, c.now.Add(rest))
	c.transition(e.Partition, idle)
	if e.To == (Member{}) {
		c.announceReleased(LeaseReleased{Partition: e.Partition, Epoch: e.Epoch})
	}
	c.reconcile(e.Partition)
}

// resumeHandovers hands over the partitions that had to wait.
func (c *Core) resumeHandovers() {
	for p := range c.partitions {
		if c.partitions[p].phase == owned {
			c.reconcile(p)
		}
	}
}

// sendGrants tells the new holders about leases that were granted to them. Only the new
// holder waits for a grant, so it is not broadcast and does not wait for Spacing. Each
// message also says that the old leases are released, for programs that do not know of
// grants: they claim the partition and find that it is theirs.
func (c *Core) sendGrants() {
	for len(c.unsentGrants) > 0 {
		to := c.unsentGrants[0].Holder
		msg := c.nextMessage()
		c.unsentGrants = slices.DeleteFunc(c.unsentGrants, func(l HeldLease) bool {
			if l.Holder == to {
				msg.Granted = append(msg.Granted, l)
				msg.Released = append(msg.Released, HeldLease{Lease: partition.Lease{Partition: l.Partition, Epoch: l.Epoch - 1}, Holder: c.self})
			}
			return l.Holder == to
		})
		c.emit(Send{To: to, Message: msg})
	}
}

// announceReleased tells the members that wait for a lease of ours that it is released.
func (c *Core) announceReleased(e LeaseReleased) {
	if !c.connected() {
		return
	}
	c.unsentFacts.Released = append(c.unsentFacts.Released, HeldLease{Lease: partition.Lease{Partition: e.Partition, Epoch: e.Epoch}, Holder: c.self})
	c.sendSoon()
}

// onLeaseLost handles the loss of a lease.
func (c *Core) onLeaseLost(e LeaseLost) {
	part := &c.partitions[e.Partition]
	if part.phase.hasLease() && part.epoch == e.Epoch {
		c.loseLease(e.Partition)
	}
}

// loseLease gives a partition up at once. If the ring still assigns it to this
// instance, it is claimed again; otherwise its row is released if it names this
// instance.
func (c *Core) loseLease(p int) {
	part := &c.partitions[p]
	c.abandon(p)
	if c.isOurs(p) {
		c.retryLater(p)
		return
	}
	c.transition(p, idle)
	c.emit(Release{Partition: p, Epoch: part.epoch})
}

// abandon closes the channel of a partition, if it has one.
func (c *Core) abandon(p int) {
	if part := &c.partitions[p]; part.phase.hasLease() {
		c.emit(Abandon{Partition: p, Epoch: part.epoch})
	}
}
