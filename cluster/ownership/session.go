package ownership

import (
	"slices"

	"github.com/glotpod/ident/cluster/ownership/moves"
)

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

// applyMove moves a partition to this instance, or takes that back.
//
// Invariant: the version is greater than that of each move of the partition that this instance knows.
func (c *Core) applyMove(e MoveRequested) {
	list := c.moves.Without(e.Partition)
	switch {
	case e.Undo:
	case c.state != Ready || !c.partitions.contains(e.Partition):
		return
	default:
		version := max(c.now.UnixMilli(), c.moves.Version(e.Partition)+1)
		for _, m := range c.members.byName {
			version = max(version, m.moves.Version(e.Partition)+1)
		}
		list = c.moves.With(moves.Move{Partition: e.Partition, Version: version})
	}
	c.setMoves(list)
}

// yieldMoves drops the moves to this instance that a later one to the member replaces.
func (c *Core) yieldMoves(m *member) {
	c.setMoves(c.moves.LostTo(moves.Announcement{Member: m.Name, Moves: m.moves}, c.cfg.Name))
}

func (c *Core) setMoves(list moves.List) {
	if slices.Equal(list, c.moves) {
		return
	}
	c.moves = list
	if c.state.connected() {
		c.sendSoon()
		c.partitions.membersChanged()
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
