package ownership

import "time"

// A session is what is known from one connection to the broker until its end.
// The next one begins with a clean slate.
type session struct {
	self            Member
	members         map[string]*member // by name, without self
	tooManyReported bool               // a member was refused because of MaxMembers

	ring             []string  // the names that count, in order
	owners           []string  // by partition; "" is nobody
	nextRing         []string  // the ring to come, while settleAt is set
	ringDiffersSince time.Time // when it first differed from ring
	applyRingAt      time.Time // zero: ring is as it should be

	readyAt        time.Time // when joining ends
	checksAt       time.Time // when to look around
	surveyAt       time.Time // when to read the epoch table
	lastWishAt     time.Time // when a lease of ours was last asked for that is to be given up
	handoverQueued bool      // such leases wait for their turn
	restUntil      time.Time // until then none begins to be handed over on request

	unsentFacts  Message     // facts that are still to be told
	unsentGrants []HeldLease // leases won for others, of which they are to be told in this step
	seq          int64       // of the latest message
	sentAt       time.Time   // the latest message
	sendAt       time.Time   // when the next is due
	moreWanted   bool        // than the latest message could say
}

func (c *Core) connected() bool {
	return Joining <= c.state && c.state <= Leaving
}

// connect begins a session.
func (c *Core) startSession(number int64) {
	if c.connected() {
		c.endSession()
	}
	c.session = session{
		self:     Member{Name: c.cfg.Name, Incarnation: Incarnation{Start: c.cfg.Start, Session: number}},
		members:  make(map[string]*member),
		owners:   make([]string, c.cfg.Partitions),
		checksAt: c.now.Add(c.cfg.Heartbeat / checksPerHeartbeat),
		surveyAt: c.now.Add(c.jitter(heartbeatsPerSurvey * c.cfg.Heartbeat)),
		readyAt:  c.now.Add(c.cfg.Debounce),
		sendAt:   c.now,
	}
	if c.drained {
		c.enterState(Draining)
	} else {
		c.enterState(Joining)
	}
}

// disconnect ends the session.
func (c *Core) endSession() {
	if !c.connected() {
		return
	}
	c.abandonAll()
	if c.leaving {
		c.enterState(Left)
	} else {
		c.enterState(Absent)
	}
}

// reconnect ends a session that is of no use any more, and asks for another.
func (c *Core) requestReconnect(why string) {
	c.emit(Reconnect{Reason: why})
	c.endSession()
}

// request notes whether the instance is to drain or to leave.
func (c *Core) applyRequest(drained, leaving bool) {
	c.drained, c.leaving = drained, leaving
	switch {
	case c.state == Absent && leaving:
		c.enterState(Left)
	case c.state == Absent, c.state == Leaving:
	case leaving:
		c.enterState(Leaving)
	case drained && c.state != Draining:
		c.enterState(Draining)
	case !drained && c.state == Draining && c.now.Before(c.readyAt):
		c.enterState(Joining)
	case !drained && c.state == Draining:
		c.enterState(Ready)
	}
}

// become enters a state, tells of it, and lets the ring follow.
func (c *Core) enterState(s State) {
	c.state = s
	c.emit(ReportState{State: s})
	if !c.connected() {
		return
	}
	c.lastWishAt = c.now
	c.sendSoon()
	c.scheduleRing()
}

// stop ends everything.
func (c *Core) stop(reason StopReason, why string) {
	c.abandonAll()
	c.state = Stopped
	c.emit(Stop{Reason: reason, Detail: why})
}

func (c *Core) abandonAll() {
	for p := range c.partitions {
		c.abandon(p)
		c.transition(p, idle)
	}
}
