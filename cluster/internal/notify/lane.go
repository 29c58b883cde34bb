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
	users     map[int64][]*outbound // the pending notifications of each user, in order
	window    window
	heldBack  int // users in all lanes
	due       int // lanes that are due
	recent    int // bytes of the bodies that passes have in recent
	connected bool

	queue   chan<- *outbound               // of what is to be published
	ready   wait.Signal                    // notified when passes and probes may be due
	confirm func(...actor.NotificationKey) // called with what was accepted
	metrics Metrics
}

func newState(o Options, queue chan<- *outbound, ready wait.Signal) state {
	s := state{
		lanes:   make([]lane, o.Partitions),
		gates:   make(map[string]*gate),
		users:   make(map[int64][]*outbound),
		queue:   queue,
		ready:   ready,
		confirm: o.Outbox.ConfirmNotifications,
		metrics: o.Metrics,
	}
	for p := range s.lanes {
		s.lanes[p].next = noPosition
	}
	return s
}

// A lane has the notifications of one partition while this instance holds its lease.
//
// Invariant: each notification of an open lane that is neither confirmed nor pending has the
// position next or a later one, unless a pass is under way.
type lane struct {
	lease  partition.Lease
	open   bool
	behind bool  // later notifications are left to the log
	next   int64 // the lowest position that the next pass has to look at; noPosition: there is none
	due    bool  // a pass is to begin, or to go on
	pass   *pass // under way, nil: none
	held   map[int64]*heldUser

	// stopped is the notification at which the last pass stopped, if its gate was closed.
	stopped stoppedAt

	pending int           // notifications
	drained chan struct{} // closed when none is pending any more; nil: nobody waits
}

type stoppedAt struct {
	position int64
	key      string
}

// A heldUser is one whose notifications are held back.
type heldUser struct {
	first int64  // the lowest position of those that are held back, as far as known
	key   string // the gate that first waits for; "": it waits for a time
	clean bool   // the pass that is under way has held none of them back
	sent  bool   // it has sent one

	// For a notification that cannot be decrypted, or that the broker never takes.
	pause time.Duration
	next  time.Time
}

// note makes sure that the pass that is under way, or else the next one, looks at
// a notification.
func (l *lane) note(position int64) {
	if l.pass != nil {
		l.pass.missed = min(l.pass.missed, position)
	} else {
		l.skip(position)
	}
}

// skip makes sure that the next pass looks at a notification.
func (l *lane) skip(position int64) { l.next = min(l.next, position) }

// setDue says whether a lane is to begin a pass, or to go on with one.
func (s *state) setDue(l *lane, due bool) {
	switch {
	case due == l.due:
		return
	case due:
		s.due++
	default:
		s.due--
	}
	l.due = due
}

// fallBehind leaves a notification, and all later ones, to the log.
func (s *state) fallBehind(l *lane, position int64) {
	if l.pass != nil {
		l.pass.discard() // a later one of the user must not be sent before it
	}
	l.note(position)
	l.behind = true
	s.setDue(l, true)
	s.ready.Notify()
}

// leave leaves a notification that was just committed to the log.
func (s *state) leave(l *lane, x actor.PendingNotification) {
	p := l.pass
	if p != nil && x.Position > p.pos && s.recent+len(x.Body) <= maxRecentBytes && len(p.recent) < outboxPage {
		p.recent = append(p.recent, x)
		s.recent += len(x.Body)
		return
	}
	l.note(x.Position)
}

// hold holds back the notifications of a user from one on, which waits for a gate, or for
// a time if key is "".
func (s *state) hold(l *lane, user, position int64, key string) {
	h := l.held[user]
	if h == nil {
		h = &heldUser{first: noPosition}
		l.held[user] = h
		s.heldBack++
	}
	h.clean = false
	if position <= h.first {
		h.first, h.key = position, key
		if key == "" {
			h.pause = min(max(firstPause, 2*h.pause), longestPause)
			h.next = time.Now().Add(h.pause)
		}
	}
	l.skip(position)
	if key != "" && s.gate(key).allowsProbe(time.Now()) {
		s.ready.Notify()
	}
}

// release holds a user back no longer.
func (s *state) release(l *lane, user int64) {
	delete(l.held, user)
	s.heldBack--
}

// closeLane sends nothing more of a partition from now on.
func (s *state) closeLane(l *lane) {
	s.endPass(l)
	s.setDue(l, false)
	s.heldBack -= len(l.held)
	l.open, l.behind, l.next, l.held, l.stopped = false, false, noPosition, nil, stoppedAt{}
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
}

// isPending reports whether a notification is pending, and whether any of its user is.
func (s *state) isPending(user, position int64) (this, any bool) {
	all := s.users[user]
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
	s.users[x.UserID] = append(s.users[x.UserID], out)
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
