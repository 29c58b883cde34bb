package ownership

import (
	"maps"
	"slices"
	"time"
)

// A member is the newest incarnation of a name that we know of.
type member struct {
	Member
	state         State
	seq           int64       // of the latest message
	lastHeard     time.Time   // when that came, or when we came to know the member
	silent        bool        // not heard for SuspectAfter; that can be wrong
	gone          bool        // the broker said so, or the member did; that is certain
	refused       bool        // has other parameters
	heardWhenGone bool        // was heard although it is gone, or an older incarnation was
	wants         []HeldLease // of ours, at most Window
}

// alive reports whether the member has to be reckoned with. The leases of one
// that is not alive may be taken.
func (m *member) isAlive() bool { return !m.gone && !m.silent }

// counts reports whether the member belongs in the ring.
func (m *member) inRing() bool { return m.isAlive() && m.state == Ready && !m.refused }

// names returns the members' names in order.
func (c *Core) memberNames() []string {
	return slices.Sorted(maps.Keys(c.members))
}

// hear takes a message of a member.
func (c *Core) handleMessage(msg *Message) {
	if msg.From.Name == c.self.Name {
		if c.isNewerSelf(msg.From) {
			c.stop(Superseded, "heard "+msg.From.String())
		}
		return
	}
	if m := c.members[msg.From.Name]; m != nil && m.gone && msg.From.Incarnation.Compare(m.Incarnation) <= 0 {
		m.heardWhenGone = true // so it is told, and stops or comes back as a newer one
		if c.connected() && slices.Contains(msg.Gone, c.self) {
			c.requestReconnect("the others hold this session to be over") // each believes it of the other
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
	for _, who := range msg.Gone {
		if c.connected() {
			c.markGone(who)
		}
	}
	if m.refused || !c.connected() {
		return // its partitions may be other ones
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

// meet returns what is known of a member. It returns nil for an incarnation
// that another has superseded, and for a name that there is no room for.
func (c *Core) lookup(who Member) *member {
	m, superseded := c.members[who.Name]
	if superseded {
		switch who.Incarnation.Compare(m.Incarnation) {
		case -1:
			return nil
		case 0:
			return m
		}
	} else if len(c.members) >= c.cfg.MaxMembers {
		if !c.tooManyReported {
			c.tooManyReported = true
			c.emit(ReportRefusal{Member: who, Reason: "there are as many members as may be"})
		}
		return nil
	}
	m = &member{Member: who, lastHeard: c.now}
	c.members[who.Name] = m
	if superseded {
		c.membersChanged()
	}
	return m
}

// update takes over what a newer message says of its sender.
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
		c.sendWithin(c.cfg.Debounce / 4) // so that it knows of us before it is ready
	}
}

// supersedes reports whether who is a newer process under our name.
func (c *Core) isNewerSelf(who Member) bool {
	return who.Name == c.self.Name && who.Incarnation.Start > c.self.Incarnation.Start
}

// disagree settles which of two that have other parameters is refused: the one
// that comes when the other is established, else the one that started later.
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

// bury notes that an incarnation is certainly over, and reports whether that
// is news.
func (c *Core) markGone(who Member) bool {
	switch {
	case who == c.self:
		c.requestReconnect("the others hold this session to be over")
		return false
	case c.isNewerSelf(who):
		c.stop(Superseded, "the others knew "+who.String())
		return false
	case who.Name == c.self.Name:
		return false
	}
	m := c.lookup(who)
	if m == nil || m.gone {
		return false
	}
	m.gone, m.wants = true, nil
	c.membersChanged()
	return true
}

// over reports whether who, a holder named by the epoch table, is no more and
// may be deposed. One that we have never heard of is believed to be alive until
// it has been silent for SuspectAfter or a probe finds it gone. One whom we have
// no room for is not reckoned with.
func (c *Core) isDead(who Member) bool {
	if who.Name == c.self.Name {
		return !c.isNewerSelf(who)
	}
	m := c.lookup(who)
	return m == nil || !m.isAlive()
}

// watch notes who has been silent for too long, and forgets who is no more.
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

// probe asks the broker about those who follow us in the order of names: a
// member that dies is noticed by the ones before it, however many we are. It
// also asks about a few of those whose fate is not known and may concern nobody
// else: who is silent, and who is known by the epoch table alone.
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

// membersChanged lets the ring and whoever waits follow a change of the
// members.
func (c *Core) membersChanged() {
	c.scheduleRing()
	for p := range c.partitions {
		c.reconcile(p)
	}
}
