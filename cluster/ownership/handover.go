package ownership

import "slices"

// giveUp hands over a partition that the ring gives to another, once that
// other asks for it: before, it would only stand idle. An instance that drains
// or leaves does not wait for what does not come.
func (c *Core) giveUp(p int) {
	part := &c.partitions[p]
	owner := c.members[c.owners[p]]
	switch {
	case owner != nil && owner.asksFor(p, part.epoch):
		c.lastAsked = c.now
	case c.state == Ready:
		return
	case len(c.ring) > 0 && c.now.Sub(c.lastAsked) < c.cfg.SuspectAfter:
		return
	}
	c.transition(p, handingOver)
	c.do(HandOver{Partition: p, Epoch: part.epoch})
}

// asksFor reports whether the member asks for our lease of a partition. We may
// have claimed it anew since the member last read the epoch table.
func (m *member) asksFor(p int, epoch int64) bool {
	return slices.ContainsFunc(m.wants, func(l Lease) bool { return l.Partition == p && l.Epoch <= epoch })
}

// asked takes a member's wish for a lease of ours. One that is not held was won
// by a claim whose answer was lost, or our news of its end was; it is released
// again. But at first the wish and the news may have crossed.
func (c *Core) asked(lease Lease) {
	if !c.exists(lease.Partition) {
		return
	}
	part := &c.partitions[lease.Partition]
	switch {
	case part.phase == owned:
		c.align(lease.Partition)
	case part.phase == idle && c.now.Sub(part.since) >= c.cfg.Heartbeat/looksPerHeartbeat:
		c.do(Release{Partition: lease.Partition, Epoch: lease.Epoch})
	}
}

// handedOver says that a partition has been given up.
func (c *Core) handedOver(e HandedOver) {
	part := &c.partitions[e.Partition]
	if part.phase != handingOver || part.epoch != e.Epoch {
		return
	}
	part.setbacks = 0
	c.transition(e.Partition, idle)
	c.freed(Released(e))
	c.align(e.Partition)
}

// freed tells whoever waits for a lease of ours that it is no more.
func (c *Core) freed(e Released) {
	if !c.connected() {
		return
	}
	c.news.Released = append(c.news.Released, Lease{Partition: e.Partition, Epoch: e.Epoch, Holder: c.self})
	c.hurry()
}

// lost says that a partition cannot be served as it is.
func (c *Core) lost(e Lost) {
	part := &c.partitions[e.Partition]
	if part.phase.held() && part.epoch == e.Epoch {
		c.lose(e.Partition)
	}
}

// lose gives up a partition at once. If it is still ours by the ring it is
// claimed anew, else its row is left free, should it name us.
func (c *Core) lose(p int) {
	part := &c.partitions[p]
	c.abandon(p)
	if c.ours(p) {
		c.backOff(p)
		return
	}
	c.transition(p, idle)
	c.do(Release{Partition: p, Epoch: part.epoch})
}

// abandon closes the channel of a partition that is held.
func (c *Core) abandon(p int) {
	if part := &c.partitions[p]; part.phase.held() {
		c.do(Abandon{Partition: p, Epoch: part.epoch})
	}
}
