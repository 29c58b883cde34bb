package ownership

import (
	"math/rand/v2"
	"time"
)

// A Core makes the decisions of one instance. It is a pure function of the events that
// it is given: it has no side effects and no clock. It is not safe for concurrent use.
//
// Between two events the following invariants hold:
//   - unless the instance is joining, owners is what Assign returns for ring;
//   - a partition that waits for a holder waits for a live one;
//   - without a session all partitions are idle;
//   - replies to claims, consumers and hand-overs of an earlier session change nothing,
//     except that leases won by them are released.
type Core struct {
	cfg    Config
	random *rand.Rand

	now     time.Time // the time of the latest event
	state   State
	drained bool // an operator has asked to drain, and not taken it back
	leaving bool // the instance has been asked to leave

	partitions      []partitionState
	active          int       // the number of partitions that are not idle
	handovers       []int     // the partitions that are being handed over, in the order in which that began
	lastAttempt     uint64    // the number of the latest claim
	claimsFailSince time.Time // when claims began to fail; zero if the latest got a reply

	session
	commands []Command // of the current Step
}

// New returns a core whose instance is not connected yet.
func New(cfg Config) (*Core, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Window == 0 {
		cfg.Window = max(minWindow, cfg.Partitions/windowShare)
	}
	if cfg.Assign == nil {
		cfg.Assign = NewTable(cfg.Partitions).Assign
	}
	return &Core{
		cfg:        cfg,
		random:     rand.New(rand.NewPCG(cfg.Seed, uint64(cfg.Start))),
		partitions: make([]partitionState, cfg.Partitions),
		session:    session{owners: make([]string, cfg.Partitions)},
	}, nil
}

// Step handles events that have happened by now, in order, and returns the commands.
// All that the events give to broadcast goes into one message. Step never waits: the
// replies to commands are events.
func (c *Core) Step(now time.Time, events ...Event) []Command {
	if c.terminated() {
		return nil
	}
	c.advanceClock(now)
	for _, e := range events {
		c.handleEvent(e)
		c.runTimers()
		if c.terminated() {
			break
		}
	}
	c.flush()
	commands := c.commands
	c.commands = nil
	return commands
}

// terminated reports whether the core has made its last decision.
func (c *Core) terminated() bool { return c.state == Left || c.state == Stopped }

// NextTick returns the time at which the next [Tick] is due, or the zero time if none
// is.
func (c *Core) NextTick() time.Time {
	if !c.connected() {
		return time.Time{}
	}
	wake := c.checksAt
	if c.sendAt.Before(wake) {
		wake = c.sendAt
	}
	if c.state == Joining && c.readyAt.Before(wake) {
		wake = c.readyAt
	}
	if !c.applyRingAt.IsZero() && c.applyRingAt.Before(wake) {
		wake = c.applyRingAt
	}
	if turn := c.nextHandoverAt(); c.handoverQueued && turn.After(c.now) && turn.Before(wake) {
		wake = turn
	}
	return wake
}

func (c *Core) handleEvent(e Event) {
	switch e := e.(type) {
	case Connected:
		c.startSession(e.Session)
	case Disconnected:
		c.endSession()
	case DrainRequested:
		c.applyRequest(true, c.leaving)
	case UndrainRequested:
		c.applyRequest(false, c.leaving)
	case LeaveRequested:
		c.applyRequest(c.drained, true)
	case Claimed:
		c.onClaimed(e)
	case LeaseReleased:
		c.announceReleased(e)
	default:
		if c.connected() {
			c.handleSessionEvent(e)
		}
	}
}

// handleSessionEvent handles the events that mean nothing without a session.
func (c *Core) handleSessionEvent(e Event) {
	switch e := e.(type) {
	case MessageReceived:
		c.handleMessage(&e.Message)
	case MemberGone:
		if c.markGone(e.Member) {
			c.unsentFacts.Gone = append(c.unsentFacts.Gone, e.Member)
			c.sendSoon()
		}
	case ClaimRefused:
		c.onClaimRefused(e)
	case ClaimFailed:
		c.onClaimFailed(e)
	case Consuming:
		c.onConsuming(e)
	case HandedOver:
		c.onHandedOver(e)
	case LeaseLost:
		c.onLeaseLost(e)
	case Surveyed:
		c.onSurveyed(e.Rows)
	}
}

// advanceClock sets the time. If more time has passed than can pass between two events,
// this process was frozen or starved, and has received no messages. So it suspects no
// member for its silence. But the other members may have suspected this instance and
// have deposed it. So it gives its leases up, and claims the partitions again by what
// the epoch table says, not by what it remembers.
func (c *Core) advanceClock(now time.Time) {
	away := now.Sub(c.now)
	if away < 0 {
		return
	}
	c.now = now
	if !c.connected() || away < 2*c.cfg.Heartbeat {
		return
	}
	for _, m := range c.members {
		m.lastHeard = m.lastHeard.Add(away)
	}
	if now.Sub(c.sentAt) >= c.cfg.SuspectAfter {
		for p := range c.partitions {
			if c.partitions[p].phase.hasLease() {
				c.loseLease(p)
			}
		}
	}
}

// runTimers does what is due.
func (c *Core) runTimers() {
	if !c.connected() {
		return
	}
	if !c.now.Before(c.checksAt) {
		c.runChecks()
	}
	if c.state == Joining && !c.now.Before(c.readyAt) {
		c.enterState(Ready)
	}
	if c.handoverQueued && !c.handoverLimitReached() {
		c.handoverQueued = false
		c.resumeHandovers()
	}
	if !c.applyRingAt.IsZero() && !c.now.Before(c.applyRingAt) {
		c.applyRing()
	}
}

// flush sends the messages that are due. The last message says that this instance has
// left.
func (c *Core) flush() {
	if !c.connected() {
		return
	}
	c.sendGrants()
	if c.state == Leaving && c.active == 0 {
		c.state = Left
		c.broadcast()
		c.emit(ReportState{State: Left})
		return
	}
	if !c.now.Before(c.sendAt) {
		c.broadcast()
	}
}

// runChecks does what has to be done periodically, without an event.
func (c *Core) runChecks() {
	c.checksAt = c.now.Add(c.cfg.Heartbeat / checksPerHeartbeat)
	c.suspectSilent()
	for p := range c.partitions {
		c.reconcile(p)
	}
	c.sendProbes()
	if !c.now.Before(c.surveyAt) {
		c.surveyAt = c.now.Add(c.jitter(heartbeatsPerSurvey * c.cfg.Heartbeat))
		c.emit(Survey{})
	}
}

// emit adds a command to those that Step returns.
func (c *Core) emit(command Command) {
	c.commands = append(c.commands, command)
}

// jitter returns d plus or minus up to a tenth.
func (c *Core) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*c.random.Float64()))
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
