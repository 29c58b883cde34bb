package ownership

import (
	"math/rand/v2"
	"time"

	"github.com/glotpod/ident/cluster/ownership/hashring"
	"github.com/glotpod/ident/cluster/ownership/moves"
)

// A Core makes the decisions of one instance. It is a pure function of the events that
// it is given: it has no side effects and no clock. It is not safe for concurrent use.
//
// The Core itself has the states of the instance, the timers and the messages. Its
// partitions decide about the leases. Both share the registry of members, the ring, the
// pacing of hand-overs and the outbox.
//
// Between two events the following invariants hold:
//   - unless the instance is joining, the owners are what Assign returns for the ring, and what the moves
//     to its members change;
//   - a partition that waits for a holder waits for a live one;
//   - without a session all partitions are idle;
//   - replies to claims, consumers and hand-overs of an earlier session change nothing,
//     except that leases won by them are released.
type Core struct {
	*instance
	partitions *partitions
	drained    bool // an operator has asked to drain, and not taken it back
	leaving    bool // the instance has been asked to leave
}

// New returns a core for an instance that is not connected yet.
func New(cfg Config) (*Core, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Window == 0 {
		cfg.Window = max(minWindow, cfg.Partitions/windowShare)
	}
	if cfg.Assign == nil {
		cfg.Assign = hashring.NewTable(cfg.Partitions).Assign
	}
	if cfg.Weight == 0 {
		cfg.Weight = hashring.UsualWeight
	}
	i := &instance{cfg: cfg, random: rand.New(rand.NewPCG(cfg.Seed, uint64(cfg.Start)))}
	i.ring = newRing(&i.cfg)
	return &Core{instance: i, partitions: newPartitions(i)}, nil
}

// Step handles events that have happened by now, in order, and returns the commands.
// All that the events give to broadcast goes into one message. Step never waits: the
// replies to commands are events.
func (c *Core) Step(now time.Time, events ...Event) []Command {
	if c.state.terminated() {
		return nil
	}
	c.advanceClock(now)
	for _, e := range events {
		c.handleEvent(e)
		c.runTimers()
		if c.state.terminated() {
			break
		}
	}
	c.flush()
	commands := c.commands
	c.commands = nil
	return commands
}

// NextTick returns the time at which the next [Tick] is due, or the zero time if none
// is.
func (c *Core) NextTick() time.Time {
	if !c.state.connected() {
		return time.Time{}
	}
	wake := earliest(c.checksAt, c.outbox.sendAt, c.ring.applyAt, c.pacing.wakeAt(c.now))
	if c.state == Joining && c.now.Before(c.readyAt) {
		wake = earliest(wake, c.readyAt)
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
	case MoveRequested:
		c.applyMove(e)
	case LeaveRequested:
		c.releasing = c.releasing || e.AtOnce
		c.applyRequest(c.drained, true)
		if e.AtOnce {
			c.partitions.reconcileAll()
		}
	case Claimed:
		c.partitions.onClaimed(e)
	case LeaseReleased:
		c.partitions.announceReleased(e)
	default:
		if c.state.connected() {
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
		c.onMemberGone(e.Member)
	case ClaimRefused:
		if c.partitions.onClaimRefused(e) {
			c.stop(Superseded, "the epoch table names "+e.Row.Holder.String())
		}
	case ClaimFailed:
		c.partitions.onClaimFailed(e)
	case Consuming:
		c.partitions.onConsuming(e)
	case HandedOver:
		c.partitions.onHandedOver(e)
	case LeaseLost:
		c.partitions.onLeaseLost(e)
	case Surveyed:
		c.partitions.onSurveyed(e)
	}
}

// advanceClock sets the time. If more time has passed than can pass between two events,
// this process was frozen or starved. The other members may have suspected this instance
// and have deposed it, so it asks the epoch table at once which of its leases stand.
func (c *Core) advanceClock(now time.Time) {
	away := now.Sub(c.now)
	if away < 0 {
		return
	}
	c.now = now
	if c.state.connected() && away >= absentAfter*c.cfg.Heartbeat {
		c.surveyAt, c.checksAt = now, now
	}
}

// runTimers does what is due.
func (c *Core) runTimers() {
	if !c.state.connected() {
		return
	}
	if !c.now.Before(c.checksAt) {
		c.runChecks()
	}
	if c.state == Joining && !c.now.Before(c.readyAt) && !c.partitions.isCutOff() {
		c.enterState(Ready)
	}
	if c.pacing.takeQueued(c.now) {
		c.partitions.resumeHandovers()
	}
	if c.ring.isDue(c.now) {
		c.ring.apply(c.members.ready(c.state))
		c.followMoves()
		c.partitions.reconcileAll()
	}
}

// flush sends the messages that are due. The last message says that this instance has
// left.
func (c *Core) flush() {
	if !c.state.connected() {
		return
	}
	c.sendGrants()
	if c.state == Leaving && c.partitions.active == 0 {
		c.state = Left
		c.broadcast()
		c.emit(ReportState{State: Left})
		return
	}
	if c.outbox.isDue(c.now) {
		c.broadcast()
	}
}

// runChecks does what has to be done periodically, without an event.
func (c *Core) runChecks() {
	c.checksAt = c.now.Add(c.cfg.Heartbeat / checksPerHeartbeat)
	c.suspectSilent()
	c.partitions.reconcileAll()
	var probed [neighboursPerCheck + doubtfulPerCheck]Member
	for _, m := range c.members.appendProbed(probed[:0], c.random) {
		c.emit(Probe{Member: m})
	}
	if !c.now.Before(c.surveyAt) {
		c.surveyAt = c.now.Add(c.jitter(heartbeatsPerSurvey * c.cfg.Heartbeat))
		c.emit(Survey{})
	}
}

// earliest returns the earliest of the times that are not zero.
func earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

// An instance is the state that the parts of a core share.
type instance struct {
	cfg      Config
	random   *rand.Rand
	now      time.Time // the time of the latest event
	state    State
	commands []Command  // of the current Step
	moves    moves.List // to this instance, in all its sessions

	releasing bool // the instance leaves, and releases its partitions at once
	session
}

// A session is the state of one connection to the broker. The next connection begins
// with an empty one.
type session struct {
	self    Member
	members registry
	ring    ring
	pacing  pacing
	outbox  outbox

	readyAt  time.Time // when joining ends
	checksAt time.Time // when the periodic checks run next
	surveyAt time.Time // when to read the epoch table
}

// connect replaces the session by a new one.
func (i *instance) connect(number int64) {
	self := Member{Name: i.cfg.Name, Incarnation: Incarnation{Start: i.cfg.Start, Session: number}}
	suspicions := i.members.suspicions
	i.session = session{
		self:     self,
		members:  newRegistry(&i.cfg, self),
		ring:     newRing(&i.cfg),
		pacing:   pacing{cfg: &i.cfg},
		outbox:   outbox{cfg: &i.cfg, sendAt: i.now},
		checksAt: i.now.Add(i.cfg.Heartbeat / checksPerHeartbeat),
		surveyAt: i.now.Add(i.jitter(heartbeatsPerSurvey * i.cfg.Heartbeat)),
		readyAt:  i.now.Add(i.cfg.Debounce),
	}
	i.members.suspicions = suspicions
}

// emit adds a command to those that Step returns.
func (i *instance) emit(command Command) {
	i.commands = append(i.commands, command)
}

// jitter returns d plus or minus up to a tenth.
func (i *instance) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*i.random.Float64()))
}

// isOurs reports whether the ring assigns the partition to this instance.
func (i *instance) isOurs(p int) bool {
	return i.state == Ready && i.ring.owners[p] == i.self.Name
}

// followMoves has the ring follow the moves to its members. They are not debounced.
func (i *instance) followMoves() {
	i.ring.applyMoves(i.members.announced(i.ring.names, i.moves))
}

// sendSoon sends the next broadcast as soon as Spacing allows.
func (i *instance) sendSoon() { i.outbox.sendWithin(i.now, 0) }

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
