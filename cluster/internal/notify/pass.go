package notify

import (
	"time"

	"github.com/glotpod/ident/actor"
)

const (
	// outboxPage is how many notifications are read from the log at a time.
	outboxPage = 500

	// maxSkipped is how many notifications of held-back users a pass passes over. Then it
	// stops, and the lane stays behind.
	maxSkipped = 10_000

	// maxAddedBytes bounds the bodies of notifications that are committed during a pass and
	// added to it.
	maxAddedBytes = 256 << 10

	// outboxTimeout is how long reading a page of the log may take.
	outboxTimeout = 2 * time.Second

	// retryEvery is how often it is checked whether probes and passes are due.
	retryEvery = time.Second
)

// A pass sends the notifications of a lane from the log, by position. The lane is behind
// meanwhile. The changes of a page are all that there are between pos and end.
type pass struct {
	pos     int64                       // all positions up to this one were looked at
	end     int64                       // all positions up to this one were looked at, or are in rows
	read    bool                        // a page was read
	rows    []actor.PendingNotification // not yet looked at
	last    bool                        // nothing was committed after end
	left    int64                       // the highest position of what was left to the log since the page was asked for
	added   int                         // bytes of the bodies that were not read, but added
	skipped int                         // notifications that were left
}

// endPass ends the pass of a lane, if one is under way.
func (l *lane) endPass() {
	l.next, l.pass = l.unread(), nil
}

// goOn looks at the rows of a pass. It returns false if the pass has ended, or has to
// wait.
func (s *state) goOn(l *lane, p *pass) (again bool) {
	if l.pass != p || !p.read {
		return l.due
	}
	for ; len(p.rows) > 0; p.rows = p.rows[1:] {
		x := &p.rows[0]
		if x.Position >= l.next {
			l.since = x.CommittedAt
		}
		switch s.look(l, p, x) {
		case mustWait:
			return false
		case mustStop:
			s.stopPass(l, x)
			return false
		}
		p.pos, l.last = x.Position, max(l.last, x.Position)
	}
	p.pos = max(p.pos, p.end)
	if !p.last {
		p.read = false
		return true
	}
	s.finishPass(l)
	return false
}

// stopPass ends a pass at a notification. Another one follows at once if it would send something
// that this one has left: it may have left it before its gate opened, or while others of the user
// were pending.
func (s *state) stopPass(l *lane, x *actor.PendingNotification) {
	if l.held[x.UserID] == nil {
		l.stopped = stoppedAt{x.Position, x.RoutingKey}
	}
	l.endPass()
	l.looked = x.Position
	s.setDue(l, false)
	for user, h := range l.held {
		if !h.clean && len(l.users[user]) == 0 && s.mayFollow(l, h) {
			s.setDue(l, true)
		}
	}
}

// mayFollow reports whether a pass may send something of a user of which nothing is pending, or
// has to find out what is left of it.
func (s *state) mayFollow(l *lane, h *heldUser) bool {
	if h.key == "" || h.first > l.looked {
		return false // it waits for a time, or for the users before it
	}
	return h.first == noPosition || !s.gate(h.key).isClosed()
}

// finishPass makes a lane direct again after a pass that has reached the end.
func (s *state) finishPass(l *lane) {
	l.pass, l.next, l.looked, l.behind = nil, noPosition, noPosition, false
	s.setDue(l, false)
	before := s.heldBack
	for user, h := range l.held {
		if h.clean {
			s.release(l, user)
			continue
		}
		from := h.first
		if all := l.users[user]; len(all) > 0 {
			from = min(from, all[0].notification.Position)
		} else if s.mayFollow(l, h) {
			s.setDue(l, true) // the user has changed meanwhile
		}
		if from < noPosition {
			h.from = max(h.from, from)
		}
	}
	if before >= maxHeldBack && s.heldBack < maxHeldBack {
		s.retryAll()
	}
}

// What becomes of a stored notification at which a pass looks.
type verdict int

const (
	looked   verdict = iota // it was sent, or it is left
	mustWait                // for room in the window, or in its gate
	mustStop                // too many are held back
)

// look sends a stored notification, or leaves it. s.mu is held.
func (s *state) look(l *lane, p *pass, x *actor.PendingNotification) verdict {
	h := l.held[x.UserID]
	this, any := l.isPending(x.UserID, x.Position)
	switch isKnown := x.Position < l.next && x.Position <= l.last; {
	case this, h == nil && isKnown, h != nil && x.Position < h.from:
		return looked // it is pending or confirmed
	}
	if h != nil {
		h.clean = h.clean && (h.sent || !any) && (h.key != "" || !time.Now().Before(h.next))
		if !h.clean {
			if x.Position < h.first { // a later one was refused meanwhile
				h.first, h.committed = x.Position, x.CommittedAt
			}
			return s.skip(p)
		}
	}
	closed := s.gate(x.RoutingKey).isClosed()
	if (x.Body == nil || closed) && h == nil && s.heldBack >= maxHeldBack {
		return mustStop
	}
	switch {
	case x.Body == nil: // it cannot be decrypted; the store has logged that
		s.hold(l, x, "")
		return s.skip(p)
	case closed: // its owner has sent it once
		s.hold(l, x, x.RoutingKey)
		return s.skip(p)
	case !s.tryPublish(l, &outbound{notification: *x, fromLog: true}):
		return mustWait
	case h != nil:
		h.sent = true
	}
	return looked
}

// skip leaves a notification of a held-back user.
func (s *state) skip(p *pass) verdict {
	if p.skipped++; p.skipped > s.maxSkipped {
		return mustStop
	}
	return looked
}
