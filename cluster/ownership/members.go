package ownership

import (
	"maps"
	"slices"
	"time"
)

// A member is the newest known incarnation of a name.
type member struct {
	Member
	state         State
	seq           int64       // of the latest message
	lastHeard     time.Time   // when the latest message came, or when the member became known
	silent        bool        // no message for SuspectAfter; the member may be alive all the same
	gone          bool        // according to the broker or to the member itself; this is certain
	refused       bool        // has other parameters
	heardWhenGone bool        // a message of it, or of an older incarnation, came after it was gone
	wants         []HeldLease // leases of ours that it asks for; at most Window
}

// isAlive reports whether the member counts as alive. The leases of a member that is
// not alive may be taken.
func (m *member) isAlive() bool { return !m.gone && !m.silent }

// inRing reports whether the member belongs in the ring.
func (m *member) inRing() bool { return m.isAlive() && m.state == Ready && !m.refused }

// memberNames returns the members' names, sorted.
func (c *Core) memberNames() []string {
	return slices.Sorted(maps.Keys(c.members))
}

// handleMessage handles a message of a member.
func (c *Core) handleMessage(msg *Message) {
	if msg.From.Name == c.self.Name {
		if c.isNewerSelf(msg.From) {
			c.stop(Superseded, "heard "+msg.From.String())
		}
		return
	}
	if m := c.members[msg.From.Name]; m != nil && m.gone && msg.From.Incarnation.Compare(m.Incarnation) <= 0 {
		m.heardWhenGone = true // so it is told that it is gone, and stops or reconnects
		if c.connected() && slices.Contains(msg.Gone, c.self) {
			c.requestReconnect("other members believe that this session is over") // each believes it of the other one
		}
		return
	}
	m := c.lookup(msg.From)
	if m == nil {
		return
	}
	newer := msg.Seq > m.seq
	if newer {
		c.updateMember(m, msg)
	}
	for _, other := range msg.Gone {
		if c.connected() {
			c.markGone(other)
		}
	}
	if m.refused || !c.connected() {
		return // with other parameters, its partitions may be different ones
	}
	c.learnLeases(msg)
	if newer {
		for _, lease := range m.wants {
			c.onWish(lease)
		}
	}
	if m.state == Left {
		c.markGone(m.Member)
	}
}

// lookup returns what is known about a member, which it adds if it is new. It returns
// nil for an incarnation that a newer one has superseded, and for a new name if there
// are MaxMembers already.
func (c *Core) lookup(other Member) *member {
	m, superseded := c.members[other.Name]
	if superseded {
		switch other.Incarnation.Compare(m.Incarnation) {
		case -1:
			return nil
		case 0:
			return m
		}
	} else if len(c.members) >= c.cfg.MaxMembers {
		if !c.tooManyReported {
			c.tooManyReported = true
			c.emit(ReportRefusal{Member: other, Reason: "too many members"})
		}
		return nil
	}
	m = &member{Member: other, lastHeard: c.now}
	c.members[other.Name] = m
	if superseded {
		c.membersChanged()
	}
	return m
}

// updateMember copies the state in a newer message of the member.
func (c *Core) updateMember(m *member, msg *Message) {
	counted, unheard := m.inRing(), m.state == Absent
	m.seq, m.state, m.lastHeard, m.silent = msg.Seq, msg.State, c.now, false
	m.wants = m.wants[:0]
	for _, lease := range msg.Wants {
		if lease.Holder == c.self && len(m.wants) < c.cfg.Window {
			m.wants = append(m.wants, lease)
		}
	}
	if why := c.cfg.parameters().differences(msg.Parameters); why != "" {
		if c.resolveDisagreement(m, why); !c.connected() {
			return
		}
	}
	if m.inRing() != counted {
		c.membersChanged()
	}
	if unheard && m.state == Joining {
		c.sendWithin(c.cfg.Debounce / 4) // so that it knows this instance before it is ready
	}
}

// isNewerSelf reports whether the member is a newer process with the name of this
// instance.
func (c *Core) isNewerSelf(other Member) bool {
	return other.Name == c.self.Name && other.Incarnation.Start > c.self.Incarnation.Start
}

// resolveDisagreement decides which of two instances with different parameters is
// refused: the one that came when the other was established, else the one that started
// later.
func (c *Core) resolveDisagreement(m *member, why string) {
	weYield := m.state.established()
	if m.state.established() == c.state.established() {
		theirs, ours := m.Incarnation.Start, c.self.Incarnation.Start
		weYield = theirs < ours || theirs == ours && m.Name < c.self.Name
	}
	if weYield {
		c.stop(ParametersDiffer, "with "+m.Member.String()+" about "+why)
	} else if !m.refused {
		m.refused = true
		c.emit(ReportRefusal{Member: m.Member, Reason: why})
	}
}

// markGone notes that an incarnation is certainly gone. It reports whether that is
// news.
func (c *Core) markGone(other Member) bool {
	switch {
	case other == c.self:
		c.requestReconnect("other members believe that this session is over")
		return false
	case c.isNewerSelf(other):
		c.stop(Superseded, "other members know "+other.String())
		return false
	case other.Name == c.self.Name:
		return false
	}
	m := c.lookup(other)
	if m == nil || m.gone {
		return false
	}
	m.gone, m.wants = true, nil
	c.membersChanged()
	return true
}

// isDead reports whether a holder named by the epoch table is dead, so that it may be
// deposed. A holder from which no message has come yet counts as alive until it has
// been silent for SuspectAfter or a probe finds that it is gone. A holder beyond
// MaxMembers counts as dead.
func (c *Core) isDead(other Member) bool {
	if other.Name == c.self.Name {
		return !c.isNewerSelf(other)
	}
	m := c.lookup(other)
	return m == nil || !m.isAlive()
}

// suspectSilent marks the members that have been silent for too long, and forgets those
// that have been gone for long.
func (c *Core) suspectSilent() {
	changed := false
	for _, name := range c.memberNames() {
		m := c.members[name]
		unheard := c.now.Sub(m.lastHeard)
		if unheard >= c.cfg.SuspectAfter && m.isAlive() {
			m.silent, m.wants = true, nil
			changed = true
		}
		if m.heardWhenGone {
			m.heardWhenGone = false
			c.unsentFacts.Gone = append(c.unsentFacts.Gone, m.Member)
			c.sendSoon()
		}
		if unheard >= forgetAfter*c.cfg.SuspectAfter {
			delete(c.members, name)
			c.tooManyReported = false
		}
	}
	if changed {
		c.membersChanged()
	}
}

// sendProbes asks the broker about the members that follow this one in the order of
// names. So the death of a member is noticed by the members before it, and the work
// does not grow with the cluster. It also probes a few members that may be dead and
// that no other member may probe: silent ones, and those known from the epoch table
// alone.
func (c *Core) sendProbes() {
	names := c.memberNames()
	after, _ := slices.BinarySearch(names, c.self.Name)
	neighbours := neighboursPerCheck
	var doubtful []Member
	for i := range names {
		m := c.members[names[(after+i)%len(names)]]
		switch {
		case m.gone:
		case m.silent || m.state == Absent:
			doubtful = append(doubtful, m.Member)
		case neighbours > 0:
			neighbours--
			c.emit(Probe{Member: m.Member})
		}
	}
	for range min(doubtfulPerCheck, len(doubtful)) {
		n := c.random.IntN(len(doubtful))
		c.emit(Probe{Member: doubtful[n]})
		doubtful = slices.Delete(doubtful, n, n+1)
	}
}

// membersChanged adapts the ring and the partitions to a change of the members.
func (c *Core) membersChanged() {
	c.scheduleRing()
	for p := range c.partitions {
		c.reconcile(p)
	}
}
