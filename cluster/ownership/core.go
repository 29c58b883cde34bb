package ownership

import (
	"math/rand/v2"
	"time"
)

// A Core decides for one instance. It is a pure function of the events that it
// is given: it does nothing by itself and knows no clock. It is not safe for
// concurrent use.
//
// Between two events the following hold:
//   - unless it joins, owners is what Assign makes of ring;
//   - a partition that waits for a holder waits for one that is alive;
//   - without a session all partitions are idle;
//   - answers to claims, consumers and hand-overs of an earlier session change
//     nothing, except that what they won is released.
type Core struct {
	cfg    Config
	random *rand.Rand

	now     time.Time // of the latest event
	state   State
	drained bool // by request, until that is taken back
	leaving bool // by request

	partitions      []partitionState
	active          int       // partitions that are not idle
	handovers       []int     // those that are being handed over, in the order in which that began
	lastAttempt     uint64    // claims so far
	claimsFailSince time.Time // claims fail; zero if the latest was answered

	session
	commands []Command // of this step
}

// New returns the core of an instance that is not connected yet.
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

// Step takes events that are being looked at now, one after another, and returns
// what is to be done. What they give to tell to all is told by one message. Step never
// waits for anything: answers are events.
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

// ended reports whether nothing will be decided any more.
func (c *Core) terminated() bool { return c.state == Left || c.state == Stopped }

// NextTick says when the next [Tick] is due, and the zero time if none is.
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

// handleConnected handles what has no meaning outside a session.
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

// pass lets time pass until now. When more of it has passed than could between
// two events, this process was away and has heard nobody meanwhile; nobody is
// suspected for that. But the others may have suspected us, and have deposed
// us: so what is held is given up and claimed anew, by what the epoch table
// says and not by what is remembered.
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

// elapse does what is due.
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

// tell sends the messages that are due, of which the last one is that this instance
// has left.
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

// look is what is done now and then without any event.
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

func (c *Core) emit(command Command) {
	c.commands = append(c.commands, command)
}

// jitter returns d, give or take a tenth.
func (c *Core) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*c.random.Float64()))
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
