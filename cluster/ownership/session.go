package ownership

import "time"

// A session is what is known from one connection to the broker until its end.
// The next one begins with a clean slate.
type session struct {
	self    Member
	members map[string]*member // by name, without self
	crowded bool               // a member was refused because of MaxMembers

	ring         []string  // the names that count, in order
	owners       []string  // by partition; "" is nobody
	pending      []string  // the ring to come, while settleAt is set
	pendingSince time.Time // when it first differed from ring
	settleAt     time.Time // zero: ring is as it should be

	readyAt   time.Time // when joining ends
	lookAt    time.Time // when to look around
	surveyAt  time.Time // when to read the epoch table
	lastAsked time.Time // when a lease of ours was last asked for that is to be given up
	queued    bool      // such leases wait for their turn
	restUntil time.Time // until then none begins to be handed over on request

	news      Message     // facts that are still to be told
	grants    []HeldLease // leases won for others, of which they are to be told in this step
	seq       int64       // of the latest message
	sentAt    time.Time   // the latest message
	sendAt    time.Time   // when the next is due
	wantsMore bool        // than the latest message could say
}

func (c *Core) connected() bool {
	return Joining <= c.state && c.state <= Leaving
}

// connect begins a session.
func (c *Core) connect(number int64) {
	if c.connected() {
		c.disconnect()
	}
	c.session = session{
		self:     Member{Name: c.cfg.Name, Incarnation: Incarnation{Start: c.cfg.Start, Session: number}},
		members:  make(map[string]*member),
		owners:   make([]string, c.cfg.Partitions),
		lookAt:   c.now.Add(c.cfg.Heartbeat / looksPerHeartbeat),
		surveyAt: c.now.Add(c.jitter(heartbeatsPerSurvey * c.cfg.Heartbeat)),
		readyAt:  c.now.Add(c.cfg.Debounce),
		sendAt:   c.now,
	}
	if c.drained {
		c.become(Draining)
	} else {
		c.become(Joining)
	}
}

// disconnect ends the session.
func (c *Core) disconnect() {
	if !c.connected() {
		return
	}
	c.abandonAll()
	if c.leaving {
		c.become(Left)
	} else {
		c.become(Absent)
	}
}

// reconnect ends a session that is of no use any more, and asks for another.
func (c *Core) reconnect(why string) {
	c.do(Reconnect{Reason: why})
	c.disconnect()
}

// request notes whether the instance is to drain or to leave.
func (c *Core) request(drained, leaving bool) {
	c.drained, c.leaving = drained, leaving
	switch {
	case c.state == Absent && leaving:
		c.become(Left)
	case c.state == Absent, c.state == Leaving:
	case leaving:
		c.become(Leaving)
	case drained && c.state != Draining:
		c.become(Draining)
	case !drained && c.state == Draining && c.now.Before(c.readyAt):
		c.become(Joining)
	case !drained && c.state == Draining:
		c.become(Ready)
	}
}

// become enters a state, tells of it, and lets the ring follow.
func (c *Core) become(s State) {
	c.state = s
	c.do(ReportState{State: s})
	if !c.connected() {
		return
	}
	c.lastAsked = c.now
	c.hurry()
	c.reconsider()
}

// stop ends everything.
func (c *Core) stop(reason StopReason, why string) {
	c.abandonAll()
	c.state = Stopped
	c.do(Stop{Reason: reason, Detail: why})
}

func (c *Core) abandonAll() {
	for p := range c.partitions {
		c.abandon(p)
		c.transition(p, idle)
	}
}
