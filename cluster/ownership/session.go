package ownership

import "time"

// A session is the state of one connection to the broker. The next connection begins
// with an empty one.
type session struct {
	self            Member
	members         map[string]*member // by name, without self
	tooManyReported bool               // a member was refused because of MaxMembers

	ring             []string  // the names of the ready members, sorted
	owners           []string  // by partition; "" if there is no owner
	nextRing         []string  // what ring will be; set while applyRingAt is
	ringDiffersSince time.Time // since when ring is not what it should be
	applyRingAt      time.Time // when ring changes; zero if it is what it should be

	readyAt        time.Time // when joining ends
	checksAt       time.Time // when the periodic checks run next
	surveyAt       time.Time // when to read the epoch table
	lastWishAt     time.Time // when a member last asked for a lease that is to be handed over
	handoverQueued bool      // members asked for leases that have to wait because of the limits
	restUntil      time.Time // until then no hand-over begins on request

	unsentFacts  Message     // facts for the next broadcast
	unsentGrants []HeldLease // leases granted in this Step, of which the new holders are to be told
	seq          int64       // of the latest message
	sentAt       time.Time   // the time of the latest broadcast
	sendAt       time.Time   // when the next broadcast is due
	moreWanted   bool        // there are more wishes than the latest message could hold
}

func (c *Core) connected() bool {
	return Joining <= c.state && c.state <= Leaving
}

// startSession begins a session.
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

// endSession ends the session.
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

// requestReconnect ends a session that is of no more use, and asks for a new one.
func (c *Core) requestReconnect(why string) {
	c.emit(Reconnect{Reason: why})
	c.endSession()
}

// applyRequest notes whether the instance has to drain or to leave.
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

// enterState enters a state, broadcasts it, and adapts the ring.
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

// stop ends all work, with a Stop command.
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
