package outbox

import (
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
)

const (
	// heldBackAfter is how long the notifications of a user may be unconfirmed, while later ones
	// of others are confirmed, until the cursor does not wait for them any longer.
	heldBackAfter = 5 * time.Second

	// maxUsers is how many users of a partition, besides those that are held back, may have
	// unconfirmed notifications. If there are more, they are read from the log later.
	maxUsers = 4096

	// maxReadUsers is how many users of a partition pages of the log may add, held-back ones
	// included. What is beyond is read again.
	maxReadUsers = 1 << 16
)

// limits bound the users of a cursor. There are at most commits + pages.
type limits struct{ commits, pages int }

// A cursor knows which changes of a partition were not notified. It does no I/O, and is not
// safe for concurrent use.
//
// Invariant: a change with a position above stored was notified, or it is of one of users, with
// a position from the user's first on, or it is above last or, if the cursor is incomplete,
// above read. A change up to stored was notified, or it is of a user that is stored.
type cursor struct {
	lease     partition.Lease
	limits    limits
	stored    int64 // the position that is in the database, or lower
	last      int64 // the highest position that is known
	confirmed int64 // the highest position that was confirmed

	// incomplete says that there may be changes above read that are not known. Pages of the
	// log are read until they are.
	incomplete bool
	read       int64
	skipped    int       // rises with each change, or number of changes, that is left to the log
	unread     time.Time // since when the cursor is incomplete
	since      time.Time // none of these changes is in the log of an earlier day; zero: not known

	// No change with a position above reached is in the log of a day before reachedDay.
	reached    int64
	reachedDay time.Time

	users    map[int64]*unconfirmed
	heldBack int             // of users: those for which isHeldBack
	deleted  map[int64]int64 // users whose row in ident_held_back is no longer needed → up to which position
	written  time.Time       // the day of the last flush
}

// unconfirmed are the unconfirmed notifications of a user.
type unconfirmed struct {
	first, last int64
	committed   time.Time // when first was, or one before it
	noted       time.Time // when this process got to know of first
	stored      int64     // the user has a row in ident_held_back with this position; 0: none
	storing     bool      // a flush is writing that row, or has failed to do so

	// A position after first, and when it was committed; 0: none.
	later          int64
	laterCommitted time.Time
}

// isHeldBack reports whether the user has a row in ident_held_back, or may have one.
func (u *unconfirmed) isHeldBack() bool { return u.stored > 0 || u.storing }

// newCursor returns the cursor of a partition that was not read.
func newCursor(lease partition.Lease, l limits) *cursor {
	return &cursor{lease: lease, limits: l, incomplete: true, unread: time.Now(),
		users: make(map[int64]*unconfirmed), deleted: make(map[int64]int64)}
}

// commit notes a change that was committed. It returns true if the cursor has become incomplete,
// because too many users have unconfirmed changes.
func (c *cursor) commit(user, position int64, committed time.Time) (missed bool) {
	if c.users[user] != nil || len(c.users)-c.heldBack < c.limits.commits {
		c.add(user, position, committed)
		return false
	}
	if missed = !c.incomplete; missed {
		c.forget()
	}
	c.last = max(c.last, position)
	c.skipped++
	return missed
}

// add notes a change that was not notified.
func (c *cursor) add(user, position int64, committed time.Time) {
	c.last = max(c.last, position)
	u := c.users[user]
	switch {
	case u == nil:
		c.users[user] = &unconfirmed{first: position, last: position, committed: committed, noted: time.Now()}
		return
	case position < u.first:
		u.first = position
		if committed.Before(u.committed) {
			u.committed = committed
		}
	case position > u.first && u.later == 0:
		u.later, u.laterCommitted = position, committed
	}
	u.last = max(u.last, position)
}

// isConfirmed reports whether a change of the log is known to be notified.
func (c *cursor) isConfirmed(user, position int64) bool {
	known := c.last
	if c.incomplete {
		known = c.read
	}
	if position > max(known, c.stored) {
		return false
	}
	u := c.users[user]
	return u == nil || position < u.first
}

// confirm notes that a notification was confirmed, after all earlier ones of the user.
func (c *cursor) confirm(user, position int64) {
	c.confirmed = max(c.confirmed, position)
	u := c.users[user]
	if u == nil || position < u.first {
		return
	}
	u.first, u.noted = position+1, time.Now()
	if u.later > 0 && position+1 >= u.later {
		u.committed, u.later = u.laterCommitted, 0
	}
	c.tidy(user, u)
}

// tidy removes a user without unconfirmed notifications. Those up to stored may be unknown until
// the log was read as far.
func (c *cursor) tidy(user int64, u *unconfirmed) {
	if u.first <= u.last || c.incomplete && c.read < c.stored {
		return
	}
	if u.isHeldBack() {
		c.heldBack--
		c.deleted[user] = max(c.deleted[user], u.last, u.stored)
	}
	delete(c.users, user)
}

// target returns how far the cursor may be moved, and the users that are held back then. A user
// that later notifications have overtaken is held back once patience is over.
func (c *cursor) target(now time.Time, patience time.Duration) (position int64, heldBack []int64) {
	known := c.last
	if c.incomplete {
		known = min(c.last, c.read)
	}
	position = known
	for user, u := range c.users {
		switch {
		case u.stored > 0:
			if u.stored != u.first && u.first <= u.last {
				heldBack = append(heldBack, user)
			}
		case u.first > known: // there may be an earlier one of the user
		case u.first < c.confirmed && now.Sub(u.noted) >= patience:
			heldBack = append(heldBack, user)
		case u.first == c.confirmed: // which is of another user
			position = min(position, u.first)
		default:
			position = min(position, u.first-1)
		}
	}
	return max(position, c.stored), heldBack
}

// notifiedOn returns the first day of which the log may have changes above the cursor that were
// not notified, except those of users that are held back, also by the flush that has held. It
// returns zero if that is not known.
func (c *cursor) notifiedOn(now time.Time, held map[int64]heldRow) time.Time {
	return c.firstDayOf(now, func(user int64, u *unconfirmed) bool { return u.stored == 0 && held[user].user == nil })
}

// firstDay returns the first day of which the log may have changes that were not notified. It
// returns zero if that is not known.
func (c *cursor) firstDay(now time.Time) time.Time {
	return c.firstDayOf(now, func(int64, *unconfirmed) bool { return true })
}

func (c *cursor) firstDayOf(now time.Time, counts func(int64, *unconfirmed) bool) time.Time {
	if c.incomplete {
		return c.since
	}
	first := now
	for user, u := range c.users {
		if counts(user, u) && u.committed.Before(first) {
			first = u.committed
		}
	}
	return first.UTC().Truncate(day).Add(-day)
}

// firstDayAfter is like firstDay for changes above a position.
func (c *cursor) firstDayAfter(position int64, now time.Time) time.Time {
	first := c.firstDay(now)
	if c.reached > 0 && c.reached <= position && c.reachedDay.After(first) {
		return c.reachedDay
	}
	return first
}

const day = 24 * time.Hour

// survey returns the first unconfirmed notifications of up to limit users. If the log has to be
// read, it returns one of no user too, which has waited since that is so.
func (c *cursor) survey(limit int, now time.Time) (all []actor.StoredNotification) {
	if c.incomplete {
		all = append(all, actor.StoredNotification{Partition: c.lease.Partition, Position: max(c.read, 0) + 1, Age: now.Sub(c.unread)})
	}
	for user, u := range c.users {
		if u.first > u.last {
			continue
		}
		if len(all) >= limit {
			break
		}
		all = append(all, actor.StoredNotification{Partition: c.lease.Partition, Position: u.first, UserID: user, Age: max(0, now.Sub(u.committed))})
	}
	return all
}
