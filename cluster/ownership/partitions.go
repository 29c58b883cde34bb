package ownership

import "github.com/glotpod/ident/cluster/partition"

// A partitions is the state of all partitions in this instance, and decides about their
// leases.
type partitions struct {
	*instance
	states      []partitionState
	active      int    // the number of partitions that are not idle
	lastAttempt uint64 // the number of the latest claim
	outage      outage // of the database
}

func newPartitions(i *instance) *partitions {
	return &partitions{instance: i, states: make([]partitionState, i.cfg.Partitions)}
}

func (ps *partitions) contains(p int) bool { return 0 <= p && p < len(ps.states) }

// transition is the one place where a partition changes its phase.
//
// Invariant: active is the number of partitions that are not idle, and pacing.running
// are those that are being handed over.
func (ps *partitions) transition(p int, to phase) {
	part := &ps.states[p]
	from := part.phase
	if from == to && (to == idle || to == waiting) {
		return
	}
	part.enter(p, to, ps.now)
	switch {
	case from == idle:
		ps.active++
	case to == idle:
		ps.active--
	}
	if from == handingOver {
		ps.pacing.end(p)
	}
	if to == handingOver {
		ps.pacing.begin(p, ps.now)
	}
}

// isCutOff reports whether this instance does not hear even itself. Then it knows of no member
// whether it is alive, and cannot consume what it claims.
func (ps *partitions) isCutOff() bool { return ps.members.clock.IsStalled(ps.now) }

// reconcile adapts a partition to the present ring and members. It may be called at any
// time.
func (ps *partitions) reconcile(p int) {
	part := &ps.states[p]
	switch {
	case part.phase == waiting && !ps.isOurs(p):
		ps.transition(p, idle)
	case part.phase == idle && ps.isOurs(p):
		ps.claim(p, partition.Lease{})
	case part.waitsForHolder() && ps.isDead(part.holder):
		ps.claim(p, heldLease(p, part.epoch, part.holder))
	case part.waitsForHolder() && !ps.members.isSpared(part.holder, ps.now):
	case part.phase == waiting && !ps.now.Before(part.retryAt):
		ps.claim(p, partition.Lease{})
	case part.phase == starting && part.deposed.Epoch != 0 && ps.now.Sub(part.since) >= startFor*ps.cfg.Heartbeat:
		ps.giveBack(p)
	case part.phase == owned && !ps.isOurs(p):
		ps.maybeHandOver(p)
	}
}

// reconcileAll adapts all partitions.
func (ps *partitions) reconcileAll() {
	for p := range ps.states {
		ps.reconcile(p)
	}
}

// membersChanged adapts the ring and the partitions to a change of the members.
func (ps *partitions) membersChanged() {
	ps.ring.schedule(ps.now, ps.state, &ps.members)
	ps.followMoves()
	ps.reconcileAll()
}

// lookup returns what is known about a member, or nil, like the look-up in the
// registry. A new incarnation ends the leases of the old one.
func (ps *partitions) lookup(other Member) *member {
	m, result := ps.members.lookup(other, ps.now)
	switch result {
	case superseded:
		ps.membersChanged()
	case refused:
		ps.emit(ReportRefusal{Member: other, Reason: "too many members"})
	}
	return m
}

// isDead reports whether a holder named by the epoch table is dead, so that it may be
// deposed. A holder from which no message has come yet counts as alive until it has
// been silent for long or a probe finds that it is gone. A holder beyond
// MaxMembers counts as dead. One that is spared does not.
func (ps *partitions) isDead(other Member) bool {
	if other.Name == ps.self.Name {
		return !ps.members.isNewerSelf(other)
	}
	m := ps.lookup(other)
	return m == nil || !m.isAlive() && !m.isSpared(ps.now)
}

// onSurveyed compares the partitions with rows of the epoch table, which may have
// changed since they were read. This finds lost messages, and leases that no member
// knows of.
//
// If the database has lost commits, each of its tables has. Then nothing that this instance
// has cached is to be trusted, and all leases are given up.
func (ps *partitions) onSurveyed(e Surveyed) {
	var behind []partition.Lease
	for n := range e.Rows {
		row := &e.Rows[n]
		if !ps.contains(row.Partition) {
			continue
		}
		part := &ps.states[row.Partition]
		if part.isBehind(row, e.AskedAt) {
			behind = append(behind, heldLease(row.Partition, part.epoch, ps.self))
		}
		part.saw(row.Epoch)
	}
	if len(behind) > 0 {
		ps.emit(ReportTableBehind{Leases: behind})
		ps.loseAll()
	}
	for n := range e.Rows {
		if row := &e.Rows[n]; ps.contains(row.Partition) {
			ps.compare(row)
		}
	}
}

// compare compares a partition with its row of the epoch table.
func (ps *partitions) compare(row *Row) {
	part := &ps.states[row.Partition]
	switch {
	case part.contradicts(row, ps.self):
		ps.loseLease(row.Partition)
	case part.phase.hasLease():
		ps.yieldTo(row.Lease)
	case part.waitsForHolder() && row.Epoch >= part.epoch:
		if row.Released || row.Epoch != part.epoch {
			ps.claim(row.Partition, partition.Lease{})
		}
	case part.phase == idle && row.Holder == ps.self && !row.Released:
		ps.release(row.Lease)
	}
}

// yieldTo gives a partition up if its lease has an earlier epoch than the given one.
func (ps *partitions) yieldTo(lease partition.Lease) {
	part := &ps.states[lease.Partition]
	if part.phase.hasLease() && part.epoch < lease.Epoch {
		ps.loseLease(lease.Partition)
	}
}

// onLeaseLost handles the loss of a lease.
func (ps *partitions) onLeaseLost(e LeaseLost) {
	switch part := &ps.states[e.Partition]; {
	case !part.hasLease(e.Epoch):
	case part.phase == starting && part.deposed.Epoch != 0:
		ps.giveBack(e.Partition)
	default:
		ps.loseLease(e.Partition)
	}
}

// giveBack releases a lease for which another member was deposed, and under which no consumer
// has started. That member may live and reach the queue, if the nodes of the broker have lost
// contact. So it gets the time to claim the partition.
func (ps *partitions) giveBack(p int) {
	part := &ps.states[p]
	if m := ps.members.find(part.deposed.Holder.Name); m != nil && m.Member == part.deposed.Holder {
		m.returns.NoteUnserved()
	}
	lease := heldLease(p, part.epoch, ps.self)
	ps.abandon(p)
	delay := part.backoff(ps.now, ps.cfg.Heartbeat)
	ps.transition(p, waiting)
	part.holder, part.retryAt = Member{}, ps.now.Add(max(delay, startFor/2*ps.cfg.Heartbeat))
	ps.release(lease)
	ps.reconcile(p)
}

// loseAll gives all leases up.
func (ps *partitions) loseAll() {
	for p := range ps.states {
		if ps.states[p].phase.hasLease() {
			ps.loseLease(p)
		}
	}
}

// loseLease gives a partition up at once. If the ring still assigns it to this
// instance, it is claimed again; otherwise its row is released if it names this
// instance.
func (ps *partitions) loseLease(p int) {
	part := &ps.states[p]
	ps.abandon(p)
	if ps.isOurs(p) {
		ps.retryLater(p)
		return
	}
	ps.transition(p, idle)
	ps.release(heldLease(p, part.epoch, ps.self))
}

// abandon closes the channel of a partition, if it has one.
func (ps *partitions) abandon(p int) {
	if part := &ps.states[p]; part.phase.hasLease() {
		ps.emit(Abandon{Partition: p, Epoch: part.epoch})
	}
}

// abandonAll makes all partitions idle, because the session is over.
func (ps *partitions) abandonAll() {
	for p := range ps.states {
		ps.abandon(p)
		ps.transition(p, idle)
	}
}

// wantedLeases returns the leases that this instance asks their holders to hand over:
// at most window, and from each holder an equal share, so that a holder that does not
// respond delays no other. It also reports whether there are more. The wishes are part
// of each message, so a lost wish is repeated.
func wantedLeases(states []partitionState, window int) (leases []partition.Lease, more bool) {
	asked := make(map[Member]int)
	for p := range states {
		if part := &states[p]; part.waitsForHolder() {
			asked[part.holder] = 0
		}
	}
	share := (window + len(asked) - 1) / max(1, len(asked))
	for p := range states {
		part := &states[p]
		switch {
		case !part.waitsForHolder():
		case asked[part.holder] == share, len(leases) == window:
			more = true
		default:
			asked[part.holder]++
			leases = append(leases, heldLease(p, part.epoch, part.holder))
		}
	}
	return leases, more
}
