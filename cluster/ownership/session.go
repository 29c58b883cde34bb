package ownership

// startSession begins a session.
func (c *Core) startSession(number int64) {
	if c.state.connected() {
		c.endSession()
	}
	c.connect(number)
	if c.drained {
		c.enterState(Draining)
	} else {
		c.enterState(Joining)
	}
}

// endSession ends the session.
func (c *Core) endSession() {
	if !c.state.connected() {
		return
	}
	c.partitions.abandonAll()
	if c.leaving {
		c.enterState(Left)
	} else {
		c.enterState(Absent)
	}
}

// requestReconnect ends a session that is useless, and asks for a new one.
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
	if !c.state.connected() {
		return
	}
	c.pacing.lastWishAt = c.now
	c.sendSoon()
	c.ring.schedule(c.now, s, &c.members)
}

// stop ends all work, with a Stop command.
func (c *Core) stop(reason StopReason, why string) {
	c.partitions.abandonAll()
	c.state = Stopped
	c.emit(Stop{Reason: reason, Detail: why})
}
