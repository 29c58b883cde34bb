package notify

import "time"

const (
	// firstPause is the pause after the broker has refused a probe. It doubles up to
	// longestPause each time that the next probe is refused, because each one repeats the
	// notification for the subscribers whose queues accept it.
	firstPause   = 2 * time.Second
	longestPause = 30 * time.Second
)

// A gate says how many notifications with one routing key may be pending. A gate that is
// open allows any number. It closes when the broker refuses a notification: then it lets
// one through, the probe. If the broker accepts the probe, the gate allows two, and twice
// as many each time that all of these were accepted.
//
// A closed gate has all others sent once nevertheless, if the broker refuses at once: the
// other queues accept these copies. It does not if the broker is silent. RabbitMQ takes
// few messages for a quorum queue that does not reply, and then nothing more over the
// connection.
//
// A gate has no clock of its own, and is not safe for concurrent use.
type gate struct {
	limit    int  // pending notifications that are allowed; 0: closed
	round    int  // rises with each refusal; what was sent in an earlier round changes nothing
	pending  int  // of this round
	accepted int  // since limit was last changed
	silent   bool // the gate was closed, or stays closed, because the broker was silent
	pause    time.Duration
	next     time.Time // when a probe may be sent, if the gate is closed
	probed   time.Time // when the last probe was sent
}

func newGate() *gate { return &gate{limit: maxPending} }

func (g *gate) isClosed() bool { return g.limit == 0 }

// holdsBack reports whether a notification is held back before it was sent.
func (g *gate) holdsBack() bool { return g.isClosed() && g.silent }

// uncounted is the round of a notification that a closed gate has sent once.
const uncounted = -1

// allowsProbe reports whether the gate is closed and a probe is due.
func (g *gate) allowsProbe(now time.Time) bool {
	return g.isClosed() && g.pending == 0 && !now.Before(g.next)
}

// take counts a notification that is about to be sent. It returns the round, and false
// if it must not be sent now.
func (g *gate) take() (round int, ok bool) {
	if g.isClosed() && !g.silent {
		return uncounted, true
	}
	if g.pending >= g.limit {
		return 0, false
	}
	g.pending++
	return g.round, true
}

// takeProbe counts the probe of a closed gate.
func (g *gate) takeProbe(now time.Time) (round int) {
	g.pending++
	g.probed = now
	return g.round
}

// accept notes that the broker has accepted a notification of a round. It returns whether
// more may be sent than before.
func (g *gate) accept(round int) (opened bool) {
	if round != g.round {
		return false
	}
	g.pending--
	if g.limit == maxPending {
		return false
	}
	g.accepted++
	if g.accepted < g.limit {
		return false
	}
	g.limit, g.accepted = min(max(2, 2*g.limit), maxPending), 0
	return true
}

// refuse notes that the broker has refused a notification of a round, or that it was
// silent: it has not confirmed the notification in time. It returns whether the gate was
// open.
func (g *gate) refuse(round int, silent bool, now time.Time) (closed bool) {
	if round != g.round {
		g.silent = g.silent || silent
		return false
	}
	g.silent = silent
	closed = !g.isClosed()
	switch {
	case !closed:
		g.pause = min(max(firstPause, 2*g.pause), longestPause)
	case g.limit < maxPending: // it was not open for long
		g.pause = firstPause
	default:
		g.pause = 0 // the first probe follows at once
	}
	g.next = now.Add(g.pause)
	g.limit, g.pending, g.accepted = 0, 0, 0
	g.round++
	return closed
}

// lose notes that it is not known what became of a notification of a round.
func (g *gate) lose(round int) {
	if round == g.round {
		g.pending--
	}
}
