package ownership

import (
	"math/rand/v2"
	"time"
)

// An instance is the state that the parts of a core share.
type instance struct {
	cfg      Config
	random   *rand.Rand
	now      time.Time // the time of the latest event
	state    State
	commands []Command // of the current Step
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

// sendSoon sends the next broadcast as soon as Spacing allows.
func (i *instance) sendSoon() { i.outbox.sendWithin(i.now, 0) }

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
