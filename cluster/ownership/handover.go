package ownership

import (
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// giveUp hands over a partition that the ring gives to another, once that
// other asks for it: before, it would only stand idle. An instance that drains
// or leaves does not wait for what does not come.
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

// handsOverEnough says that no further partition is to be handed over for now.
func (c *Core) handoverLimitReached() bool {
	return len(c.handovers) >= c.cfg.Window || c.now.Before(c.nextHandoverAt())
}

// turn is when the next hand-over may begin, if it were only for time: after the rest,
// and once the last ones have ended, or have taken so long that it is rather a request
// that they wait for than the broker or the database.
func (c *Core) nextHandoverAt() time.Time {
	turn := c.restUntil
	if last := len(c.handovers) - c.cfg.usualHandovers(); last >= 0 {
		turn = laterOf(turn, c.partitions[c.handovers[last]].since.Add(c.cfg.maxRest()))
	}
	return turn
}

// asksFor reports whether the member asks for our lease of a partition. We may
// have claimed it anew since the member last read the epoch table.
func (m *member) wantsLease(p int, epoch int64) bool {
	return slices.ContainsFunc(m.wants, func(l HeldLease) bool { return l.Partition == p && l.Epoch <= epoch })
}

// asked takes a member's wish for a lease of ours. One that is not held was won
// by a claim whose answer was lost, or our news of its end was; it is released
// again. But at first the wish and the news may have crossed.
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

// handedOver says that a partition has been given up. Whoever has it now is told in any
// case.
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

// goOn hands over what has waited for its turn.
func (c *Core) resumeHandovers() {
	for p := range c.partitions {
		if c.partitions[p].phase == owned {
			c.reconcile(p)
		}
	}
}

// grant tells those who asked for leases of ours that they have the next ones. They
// wait for that alone, and nobody else does: so it is not broadcast, nor has it to
// wait for Spacing. Programs that do not know of grants are told that the leases they
// asked for are released: then they find that they have the next ones.
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

// freed tells whoever waits for a lease of ours that it is no more.
func (c *Core) announceReleased(e LeaseReleased) {
	if !c.connected() {
		return
	}
	c.unsentFacts.Released = append(c.unsentFacts.Released, HeldLease{Lease: partition.Lease{Partition: e.Partition, Epoch: e.Epoch}, Holder: c.self})
	c.sendSoon()
}

// lost says that a partition cannot be served as it is.
func (c *Core) onLeaseLost(e LeaseLost) {
	part := &c.partitions[e.Partition]
	if part.phase.hasLease() && part.epoch == e.Epoch {
		c.loseLease(e.Partition)
	}
}

// lose gives up a partition at once. If it is still ours by the ring it is
// claimed anew, else its row is left free, should it name us.
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

// abandon closes the channel of a partition that is held.
func (c *Core) abandon(p int) {
	if part := &c.partitions[p]; part.phase.hasLease() {
		c.emit(Abandon{Partition: p, Epoch: part.epoch})
	}
}
