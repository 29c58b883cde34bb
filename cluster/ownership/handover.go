package ownership

// maybeHandOver hands over a partition that the ring assigns to another member, once
// that member asks for it. Earlier the partition would only be idle. An instance that
// drains or leaves does not wait for ever: if no member asks, it releases the
// partition.
func (ps *partitions) maybeHandOver(p int) {
	part := &ps.states[p]
	owner := ps.members.find(ps.ring.owners[p])
	var to Member
	switch {
	case owner != nil && owner.wantsLease(p, part.epoch):
		ps.pacing.lastWishAt = ps.now
		if ps.pacing.limitReached(ps.now) {
			ps.pacing.queued = true
			return
		}
		to = owner.Member
	case ps.state == Ready:
		return
	case len(ps.ring.names) > 0 && ps.now.Sub(ps.pacing.lastWishAt) < ps.cfg.SuspectAfter:
		return
	}
	ps.transition(p, handingOver)
	ps.emit(HandOver{Partition: p, Epoch: part.epoch, To: to})
}

// onWish handles a wish of a member for a lease of ours. If the partition is idle here,
// the lease was won by a claim and the reply was lost, or the news of its end was lost;
// it is released again. But shortly after its end, the wish and the news may have
// crossed.
func (ps *partitions) onWish(lease HeldLease) {
	if !ps.contains(lease.Partition) {
		return
	}
	part := &ps.states[lease.Partition]
	switch {
	case part.phase == owned:
		ps.reconcile(lease.Partition)
	case part.phase == idle && ps.now.Sub(part.since) >= ps.cfg.Heartbeat/checksPerHeartbeat:
		ps.emit(Release{Partition: lease.Partition, Epoch: lease.Epoch})
	}
}

// onHandedOver notes that a hand-over is complete. The grant is sent to the new holder
// in any case.
func (ps *partitions) onHandedOver(e HandedOver) {
	if e.To != (Member{}) {
		ps.outbox.grants = append(ps.outbox.grants, heldLease(e.Partition, e.Epoch+1, e.To))
	}
	part := &ps.states[e.Partition]
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
