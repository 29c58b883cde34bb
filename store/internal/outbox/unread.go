package outbox

import (
	"slices"
	"time"

	"github.com/glotpod/ident/actor"
)

// A cursor is incomplete if there may be changes that this process has not learned of, or has
// forgotten. It learns of them by pages of the log.

// takeOver sets what the database says about the partition. It returns whether the log has to
// be read.
func (c *cursor) takeOver(s Start) (backlog bool) {
	now := time.Now()
	c.stored, c.last, c.read = s.Notified, s.Notified, s.Notified
	c.since = now.UTC().Truncate(day).Add(-day)
	if s.Since.Before(c.since) {
		c.since, s.Backlog = s.Since, true
	}
	for _, h := range s.HeldBack {
		c.users[h.UserID] = &unconfirmed{first: h.Position, committed: h.Since.Add(day), noted: now, stored: h.Position}
		c.read = min(c.read, h.Position-1)
		if h.Since.Before(c.since) {
			c.since = h.Since
		}
	}
	c.heldBack = len(s.HeldBack)
	c.incomplete = s.Backlog || len(s.HeldBack) > 0
	return c.incomplete
}

// forget makes the cursor incomplete. It forgets the users that are not held back.
func (c *cursor) forget() {
	c.setIncomplete()
	for user, u := range c.users {
		if u.stored == 0 {
			c.read = min(c.read, u.first-1)
		}
		if !u.isHeldBack() {
			delete(c.users, user)
		}
	}
}

// miss notes that changes above last may have been committed.
func (c *cursor) miss() {
	c.skipped++
	if !c.incomplete {
		c.setIncomplete()
	}
}

// setIncomplete notes that changes above last are not known.
func (c *cursor) setIncomplete() {
	now := time.Now()
	c.since = c.firstDay(now)
	c.incomplete, c.unread, c.read = true, now, c.last
}

// A reading is a page of the log that is being read.
type reading struct {
	cursor  *cursor
	after   int64
	last    int64 // all changes up to this one were committed before
	skipped int
}

// beginPage begins to read what was not notified of the log after a position.
func (c *cursor) beginPage(after int64) reading { return reading{c, after, c.last, c.skipped} }

// endPage adds what a page has, and returns the page without the notifications that are
// confirmed. more says that the log may have others.
func (c *cursor) endPage(r reading, all []actor.PendingNotification, more bool) []actor.PendingNotification {
	read := r.after
	for i := range all {
		read = max(read, all[i].Position)
	}
	if more && len(all) > 0 {
		n := &all[len(all)-1]
		c.reached, c.reachedDay = n.Position, n.CommittedAt.UTC().Truncate(day).Add(-day)
	}
	if !more {
		read = max(read, r.last)
	}
	all = slices.DeleteFunc(all, func(n actor.PendingNotification) bool { return c.isConfirmed(n.UserID, n.Position) })
	for i := range all {
		n := &all[i]
		if c.users[n.UserID] == nil && len(c.users) >= c.limits.pages {
			read, more = min(read, n.Position-1), true
			continue
		}
		c.add(n.UserID, n.Position, n.CommittedAt)
	}
	if !c.incomplete || r.after > c.read {
		return all
	}
	wasBehind := c.read < c.stored
	c.read = max(c.read, read)
	c.incomplete = more || c.skipped != r.skipped
	if wasBehind {
		for user, u := range c.users {
			c.tidy(user, u)
		}
	}
	return all
}
