package notify

import (
	"slices"
	"time"

	"github.com/glotpod/ident/actor"
)

const (
	// outboxPage is how many notifications are read from the log at a time.
	outboxPage = 500

	// maxSkipped is how many notifications of held-back users a pass passes over. Then it
	// stops, and the lane stays behind.
	maxSkipped = 10_000

	// maxRecentBytes bounds the bodies of notifications that were committed during a pass
	// and are kept for its end, in all lanes.
	maxRecentBytes = 4 << 20

	// outboxTimeout is how long reading a page of the log may take.
	outboxTimeout = 2 * time.Second

	// retryEvery is how often it is checked whether probes and passes are due.
	retryEvery = time.Second
)

// A pass sends the notifications of a lane from the log, by position. The lane is behind
// meanwhile.
//
// A notification that is committed during the pass is found by it: either it is in a
// page that is read later, or it is in recent, or missed is not above its position.
type pass struct {
	pos       int64                       // all positions up to this one were looked at
	read      bool                        // a page was read, and rows is what is left of it
	rows      []actor.PendingNotification // not yet looked at
	positions []int64                     // of the page
	last      bool                        // the page ended with the last row of the partition
	done      map[int64]struct{}          // positions that were confirmed since the page was asked for
	missed    int64                       // the lowest position that has to be looked at again; noPosition: none
	recent    []actor.PendingNotification // committed since the last page was read
	skipped   int                         // notifications that were left
}

// forgetRecent leaves what was committed since the last page was read to the next page.
func (s *state) forgetRecent(p *pass) {
	for _, x := range p.recent {
		p.missed = min(p.missed, x.Position)
		s.recent -= len(x.Body)
	}
	p.recent = nil
}

// endPass ends the pass of a lane, if one is under way.
func (s *state) endPass(l *lane) {
	p := l.pass
	if p == nil {
		return
	}
	s.forgetRecent(p)
	for _, x := range p.rows {
		l.skip(x.Position)
	}
	l.pass = nil
	l.skip(p.missed)
	if !p.read || !p.last {
		l.skip(p.pos + 1)
	}
}

// discard leaves the rows that were not looked at to the next page.
func (p *pass) discard() {
	for i := range p.rows {
		p.missed = min(p.missed, p.rows[i].Position)
	}
	p.read, p.rows = false, nil
}

// goOn looks at the rows of a pass. It returns false if the pass has ended, or has to
// wait.
func (s *state) goOn(l *lane, p *pass) (again bool) {
	if l.pass != p || !p.read {
		return l.due
	}
	for {
		if len(p.rows) == 0 && !s.takeRecent(p) {
			break
		}
		switch s.look(l, p, p.rows[0]) {
		case mustWait:
			return false
		case mustStop:
			l.stopped = stoppedAt{p.rows[0].Position, p.rows[0].RoutingKey}
			s.endPass(l)
			s.setDue(l, false)
			return false
		}
		p.pos = max(p.pos, p.rows[0].Position)
		p.rows = p.rows[1:]
	}
	if !p.last || p.missed != noPosition {
		p.read = false
		return true
	}
	s.finishPass(l)
	return false
}

// takeRecent goes on with what was committed since the last page was read. It returns
// false if there is nothing, or if another page has to be read before.
func (s *state) takeRecent(p *pass) bool {
	if !p.last || p.missed != noPosition {
		return false
	}
	for _, x := range p.recent {
		s.recent -= len(x.Body)
		if _, found := slices.BinarySearch(p.positions, x.Position); !found {
			p.rows = append(p.rows, x)
		}
	}
	p.recent = nil
	return len(p.rows) > 0
}

// finishPass makes a lane direct again after a pass that has reached the end.
func (s *state) finishPass(l *lane) {
	s.endPass(l)
	l.behind = false
	s.setDue(l, false)
	before := s.heldBack
	for user, h := range l.held {
		if h.clean {
			s.release(l, user)
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
func (s *state) look(l *lane, p *pass, x actor.PendingNotification) verdict {
	this, any := s.isPending(x.UserID, x.Position)
	if _, done := p.done[x.Position]; done {
		s.confirm(x.Key()) // again: the outbox may have learned of it by the page
		return looked
	}
	if this {
		return looked
	}
	h := l.held[x.UserID]
	if h != nil {
		h.clean = h.clean && (h.sent || !any) && (h.key != "" || !time.Now().Before(h.next))
		if !h.clean {
			if h.first == noPosition {
				h.first = x.Position
			}
			return s.pass(l, p, x.Position)
		}
	}
	closed := s.gate(x.RoutingKey).isClosed()
	if (x.Body == nil || closed) && h == nil && s.heldBack >= maxHeldBack {
		return mustStop
	}
	switch {
	case x.Body == nil: // it cannot be decrypted; the store has logged that
		s.hold(l, x.UserID, x.Position, "")
		return s.pass(l, p, x.Position)
	case closed: // its owner has sent it once
		s.hold(l, x.UserID, x.Position, x.RoutingKey)
		return s.pass(l, p, x.Position)
	case !s.tryPublish(l, &outbound{notification: x, fromLog: true}):
		return mustWait
	case h != nil:
		h.sent = true
	}
	return looked
}

// pass leaves a notification of a held-back user.
func (s *state) pass(l *lane, p *pass, position int64) verdict {
	l.skip(position)
	if p.skipped++; p.skipped > maxSkipped {
		return mustStop
	}
	return looked
}
