package notify

import (
	"math"
	"slices"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// maxHeldBack is how many users the passes of all lanes may hold back. Then a lane
	// waits where it is.
	maxHeldBack = 50_000

	// noPosition is greater than any position.
	noPosition = math.MaxInt64
)

// A state decides what is sent, and when. It does no I/O, and is not safe for concurrent
// use.
type state struct {
	lanes     []lane // by partition
	gates     map[string]*gate
	window    window
	heldBack  int // users in all lanes
	due       int // lanes that are due
	connected bool

	maxSkipped int // tests have a lower one

	queue   chan<- *outbound // of what is to be published
	ready   wait.Signal      // notified when passes and probes may be due
	metrics Metrics
}

func newState(o Options, queue chan<- *outbound, ready wait.Signal) state {
	s := state{
		lanes:   make([]lane, o.Partitions),
		gates:   make(map[string]*gate),
		queue:   queue,
		ready:   ready,
		metrics: o.Metrics,

		maxSkipped: maxSkipped,
	}
	for p := range s.lanes {
		s.lanes[p].next, s.lanes[p].users = noPosition, make(map[int64][]*outbound)
	}
	return s
}

// A lane has the notifications of one partition while this instance holds its lease.
//
// Invariant: each notification that is not confirmed is pending, or it is of a held user and has
// the position from or a later one, or it is not below unread.
type lane struct {
	lease  partition.Lease // zero: what was notified is not known
	open   bool            // otherwise nothing is sent
	behind bool            // later notifications are left to the log
	last   int64           // the highest position of those that were sent or left
	next   int64           // the lowest position that the next pass has to look at; noPosition: there is none
	since  time.Time       // if a pass was at next: when that was committed, otherwise when next was set
	due    bool            // a pass is to begin, or to go on
	pass   *pass           // under way, nil: none
	held   map[int64]*heldUser

	// looked is the position up to which the last pass has looked at all: noPosition if it reached
	// the end. A later one that is held back may follow others of its user that are left in the log,
	// so it is no probe.
	looked  int64
	stopped stoppedAt // where the last pass stopped, if the user is not held back

	reported int64                 // the position of the last progress
	users    map[int64][]*outbound // the pending notifications of each user, in order
	pending  int                   // notifications
	drained  chan struct{}         // closed when none is pending any more; nil: nobody waits
}

type stoppedAt struct {
	position int64
	key      string
}

// A heldUser is one whose notifications are held back.
type heldUser struct {
	from      int64     // all earlier ones are confirmed
	first     int64     // the lowest position of those that are held back; noPosition: not known
	committed time.Time // when first was; zero: not known
	key       string    // the gate that first waits for; "": it waits for a time
	clean     bool      // the pass that is under way has held none of them back
	sent      bool      // it has sent one

	// For a notification that cannot be decrypted, or that the broker never takes.
	pause time.Duration
	next  time.Time
}

// setDue says whether a lane is to begin a pass, or to go on with one.
func (s *state) setDue(l *lane, due bool) {
	switch {
	case due == l.due:
		return
	case due:
		s.due++
		s.ready.Notify()
	default:
		s.due--
	}
	l.due = due
}

// fallBehind leaves the notifications from a position on to the log.
func (s *state) fallBehind(l *lane, position int64) {
	if l.pass != nil {
		l.pass.last, l.pass.left = false, noPosition
	}
	l.skip(position)
	l.behind = true
	s.setDue(l, true)
}

// skip makes sure that a pass looks at a notification.
func (l *lane) skip(position int64) {
	if l.next == noPosition {
		l.since = time.Now()
	}
	l.next = min(l.next, position)
}

// leave leaves a notification that was just committed to the log, or to the pass under way.
func (l *lane) leave(x actor.PendingNotification) {
	l.skip(x.Position)
	switch p := l.pass; {
	case p == nil || x.Position <= p.end:
	case p.last && len(p.rows) < outboxPage && p.added+len(x.Body) <= maxAddedBytes:
		p.rows, p.end, p.added = append(p.rows, x), x.Position, p.added+len(x.Body)
	default:
		p.last, p.left = false, x.Position
	}
}

// hold holds back the notifications of a user from one on, which waits for a gate, or for
// a time if key is "".
func (s *state) hold(l *lane, x *actor.PendingNotification, key string) *heldUser {
	h := l.held[x.UserID]
	if h == nil {
		h = &heldUser{from: x.Position, first: noPosition}
		if all := l.users[x.UserID]; len(all) > 0 {
			h.from = min(h.from, all[0].notification.Position)
		}
		l.held[x.UserID] = h
		s.heldBack++
	}
	h.clean, h.from = false, min(h.from, x.Position)
	if x.Position <= h.first {
		h.first, h.committed, h.key = x.Position, x.CommittedAt, key
		if key == "" {
			h.pause = min(max(firstPause, 2*h.pause), longestPause)
			h.next = time.Now().Add(h.pause)
		}
	}
	if key != "" && s.gate(key).allowsProbe(time.Now()) {
		s.ready.Notify()
	}
	return h
}

// holdLost holds back a user whose notification has to be sent again as soon as possible.
func (s *state) holdLost(l *lane, x *actor.PendingNotification) {
	if h := s.hold(l, x, ""); h.first == x.Position {
		h.pause, h.next = 0, time.Time{}
	}
	s.setDue(l, l.open)
}

// release holds a user back no longer.
func (s *state) release(l *lane, user int64) {
	delete(l.held, user)
	s.heldBack--
}

// closeLane sends nothing more of a partition from now on. What is notified is still noted.
func (s *state) closeLane(l *lane) {
	l.endPass()
	s.setDue(l, false)
	l.open, l.behind, l.stopped = false, false, stoppedAt{}
}

// forgetLane forgets what was notified of a partition.
func (s *state) forgetLane(l *lane) {
	s.closeLane(l)
	s.heldBack -= len(l.held)
	l.lease, l.held, l.next = partition.Lease{}, nil, noPosition
}

// unread returns the position from which on there may be notifications that no pass has looked
// at, and that were not sent.
func (l *lane) unread() int64 {
	if l.pass == nil || l.next == noPosition {
		return l.next
	}
	return max(l.next, l.pass.pos+1)
}

// progress returns what was notified. A user that waits for a confirmation is held back
// if the position has passed it, as it may be after the end of a pass and when the lease ends.
func (l *lane) progress() actor.NotificationProgress {
	position := min(l.last, l.unread()-1)
	for user, all := range l.users {
		if first := all[0].notification.Position; l.open && l.held[user] == nil && first > l.reported {
			position = min(position, first-1)
		}
	}
	position = max(position, l.reported)
	p := actor.NotificationProgress{Notified: position, Last: l.last, HeldBack: make(map[int64]int64)}
	if l.next != noPosition {
		p.Last = noPosition
	}
	for user, h := range l.held {
		if h.from <= position {
			p.HeldBack[user] = h.from
		}
	}
	for user, all := range l.users {
		if first := all[0].notification.Position; l.held[user] == nil && first <= position {
			p.HeldBack[user] = first
		}
	}
	l.reported = position
	return p
}

// An outbound notification is one on its way to the broker.
type outbound struct {
	notification actor.PendingNotification
	committed    time.Time // zero if it was read from the log
	lease        partition.Lease
	round        int  // of its gate
	fromLog      bool // it counts as such in the window
	probe        bool
	accepted     bool // and an earlier one of the user is pending
	again        bool // an earlier one of the user has to be sent again, and so has this one
	overtakes    bool // it would be the first to reach a queue that may lack an earlier one
}

// isPending reports whether a notification is pending, and whether any of its user is.
func (l *lane) isPending(user, position int64) (this, any bool) {
	all := l.users[user]
	return slices.ContainsFunc(all, func(o *outbound) bool { return o.notification.Position == position }), len(all) > 0
}

// tryPublish has a notification published if there is room for it in the window and its
// gate lets it through. s.mu is held.
func (s *state) tryPublish(l *lane, out *outbound) bool {
	x := &out.notification
	if !s.connected || !s.window.fits(weight(x), out.fromLog) {
		return false
	}
	round, ok := s.gate(x.RoutingKey).take()
	if ok {
		out.round = round
		s.enqueue(l, out)
	}
	return ok
}

// enqueue has a notification published, which the gate and the window allow.
func (s *state) enqueue(l *lane, out *outbound) {
	x := &out.notification
	out.lease = l.lease
	s.window.add(weight(x), out.fromLog)
	l.users[x.UserID] = append(l.users[x.UserID], out)
	l.pending++
	s.queue <- out // has room for all that the window allows
}

// gate returns the gate of a routing key.
func (s *state) gate(key string) *gate {
	g := s.gates[key]
	if g == nil {
		g = newGate()
		s.gates[key] = g
	}
	return g
}

// A window bounds the pending notifications. Those from the log have half of it, so
// that a backlog does not stop what is committed.
type window struct{ all, fromLog usage }

type usage struct {
	count int
	bytes int64
}

// fits reports whether one more notification may be pending. One that is larger than the
// bound may be pending alone.
func (w *window) fits(bytes int64, fromLog bool) bool {
	return w.all.fits(bytes, maxPending, maxPendingBytes) && (!fromLog || w.fromLog.fits(bytes, maxPending/2, maxPendingBytes/2))
}

func (u *usage) fits(bytes int64, maxCount int, maxBytes int64) bool {
	return u.count == 0 || u.count < maxCount && u.bytes+bytes <= maxBytes
}

func (w *window) add(bytes int64, fromLog bool) {
	w.all.count++
	w.all.bytes += bytes
	if fromLog {
		w.fromLog.count++
		w.fromLog.bytes += bytes
	}
}

func (w *window) remove(bytes int64, fromLog bool) {
	w.all.count--
	w.all.bytes -= bytes
	if fromLog {
		w.fromLog.count--
		w.fromLog.bytes -= bytes
	}
}

func weight(x *actor.PendingNotification) int64 { return int64(len(x.Body)) }
