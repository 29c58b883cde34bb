package ownership

import (
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// handleMessage handles a message of a member.
func (c *Core) handleMessage(msg *Message) {
	if msg.From.Name == c.self.Name {
		if msg.From == c.self {
			wasCutOff := c.partitions.isCutOff()
			c.members.clock.Echo(c.now, msg.Next)
			if wasCutOff {
				c.partitions.reconcileAll()
			}
		} else if c.members.isNewerSelf(msg.From) {
			c.stop(Superseded, "heard "+msg.From.String())
		}
		return
	}
	if msg.Parameters.First != c.cfg.First {
		return // it works in another generation of partitions, and has leases of others
	}
	if c.members.isRevenant(msg.From) {
		if slices.Contains(msg.Gone, c.self) {
			c.requestReconnect("other members believe that this session is over") // each believes it of the other one
		}
		return
	}
	m := c.partitions.lookup(msg.From)
	if m == nil {
		return
	}
	newer := msg.Seq > m.seq
	if newer {
		c.updateMember(m, msg)
	}
	for _, other := range msg.Gone {
		if c.state.connected() {
			c.markGone(other)
		}
	}
	if m.refused || !c.state.connected() {
		return // with other parameters, its partitions may be different ones
	}
	c.partitions.learnLeases(msg)
	if newer {
		for _, lease := range m.wants {
			c.partitions.onWish(lease)
		}
	}
	if m.state == Left {
		c.markGone(m.Member)
	}
}

// updateMember copies the state in a newer message of the member, and adapts the ring
// to it.
func (c *Core) updateMember(m *member, msg *Message) {
	counted, unheard := m.inRing(), m.state == Absent
	weight, moved := m.weight, m.moves
	if m.silent {
		c.emit(ReportSuspicion{Member: m.Member, Silent: m.watch.For(c.members.clock.At(c.now)), Wrong: true})
	}
	c.members.update(m, msg, c.now)
	if why := c.cfg.parameters().differences(msg.Parameters); why != "" {
		if c.resolveDisagreement(m, why); !c.state.connected() {
			return
		}
	}
	c.yieldMoves(m)
	if m.inRing() != counted || m.weight != weight || !slices.Equal(m.moves, moved) {
		c.partitions.membersChanged()
	}
	if unheard && m.state == Joining {
		c.outbox.sendWithin(c.now, c.cfg.Debounce/4) // so that it knows this instance before it is ready
	}
}

// resolveDisagreement refuses one of two instances with different parameters.
func (c *Core) resolveDisagreement(m *member, why string) {
	if c.members.mustYield(m, c.state) {
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
	case c.members.isNewerSelf(other):
		c.stop(Superseded, "other members know "+other.String())
		return false
	case other.Name == c.self.Name:
		return false
	}
	m := c.partitions.lookup(other)
	if m == nil || m.gone {
		return false
	}
	c.members.bury(m)
	c.partitions.membersChanged()
	return true
}

// onMemberGone handles the reply to a probe, and passes on the news.
func (c *Core) onMemberGone(other Member) {
	if c.markGone(other) {
		c.outbox.facts.Gone = append(c.outbox.facts.Gone, other)
		c.sendSoon()
	}
}

// suspectSilent notes which members have been silent for too long.
func (c *Core) suspectSilent() {
	suspected, revenants := c.members.suspectSilent(c.now)
	for _, m := range suspected {
		c.emit(ReportSuspicion{Member: m.Member, Silent: m.watch.For(c.members.clock.At(c.now))})
	}
	if len(revenants) > 0 {
		c.outbox.facts.Gone = append(c.outbox.facts.Gone, revenants...)
		c.sendSoon()
	}
	if len(suspected) > 0 {
		c.partitions.membersChanged()
	}
}

// broadcast sends a message with the unsent facts to all members.
func (c *Core) broadcast() {
	msg := c.nextMessage()
	msg.Next = c.jitter(c.members.heartbeat()).Truncate(time.Millisecond)
	c.outbox.takeFacts(&msg, c.now, c.now.Add(msg.Next))
	c.emit(Broadcast{Message: msg})
}

// sendGrants tells the new holders about leases that were granted to them. Only the new
// holder waits for a grant, so it is not broadcast and does not wait for Spacing.
func (c *Core) sendGrants() {
	for to, ok := c.outbox.nextGrantee(); ok; to, ok = c.outbox.nextGrantee() {
		msg := c.nextMessage()
		// Not when the next broadcast is due, perhaps at once: the new holder would suspect this
		// instance after a short delay.
		msg.Next = max(c.members.heartbeat(), c.outbox.sendAt.Sub(c.now)).Truncate(time.Millisecond)
		c.outbox.takeGrants(&msg, to)
		c.emit(Send{To: to, Message: msg})
	}
}

// nextMessage returns the next message, with the present state and wishes of this
// instance.
func (c *Core) nextMessage() Message {
	msg := Message{From: c.self, Seq: c.outbox.nextSeq(), State: c.state, Parameters: c.cfg.parameters(), Weight: c.cfg.Weight, Moves: c.moves}
	msg.Wants, c.outbox.moreWanted = wantedLeases(c.partitions.states, c.cfg.Window)
	return msg
}

// An outbox collects what the next messages have to say, and decides when the next
// broadcast is due.
type outbox struct {
	cfg    *Config
	facts  Message           // facts for the next broadcast
	grants []partition.Lease // leases granted in this Step, for messages to their new holders
	seq    int64             // of the latest message
	sentAt time.Time         // the time of the latest broadcast
	sendAt time.Time         // when the next broadcast is due

	moreWanted bool // there are more wishes than the latest message could hold
}

// sendWithin sends the next broadcast after wait at the latest, or as soon as Spacing
// allows if that is later.
func (o *outbox) sendWithin(now time.Time, wait time.Duration) {
	due := laterOf(now.Add(wait), o.sentAt.Add(o.cfg.Spacing))
	if due.Before(o.sendAt) {
		o.sendAt = due
	}
}

// isDue reports whether a broadcast has to be sent now.
func (o *outbox) isDue(now time.Time) bool { return !now.Before(o.sendAt) }

// nextSeq returns the number of the next message.
func (o *outbox) nextSeq() int64 {
	o.seq++
	return o.seq
}

// takeFacts moves the unsent facts into a broadcast of now. The one after it is due at
// next.
func (o *outbox) takeFacts(msg *Message, now, next time.Time) {
	msg.Released, msg.Taken, msg.Gone = o.facts.Released, o.facts.Taken, o.facts.Gone
	o.facts = Message{}
	o.sentAt, o.sendAt = now, next
}

// nextGrantee returns the member to which grants have to be sent next.
func (o *outbox) nextGrantee() (to Member, ok bool) {
	if len(o.grants) == 0 {
		return Member{}, false
	}
	return o.grants[0].Holder, true
}

// takeGrants moves the unsent grants to a member into a message to it. The message also
// says that the old leases are released, for programs that do not know of grants: they
// claim the partition and find that it is theirs.
func (o *outbox) takeGrants(msg *Message, to Member) {
	o.grants = slices.DeleteFunc(o.grants, func(l partition.Lease) bool {
		if l.Holder == to {
			msg.Granted = append(msg.Granted, l)
			msg.Released = append(msg.Released, heldLease(l.Partition, l.Epoch-1, msg.From))
		}
		return l.Holder == to
	})
}
