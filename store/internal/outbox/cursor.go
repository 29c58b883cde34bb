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

	// maxUsers is how many users of a partition may have unconfirmed notifications. If there are
	// more, they are read from the log later.
	maxUsers = 4096
)

// A cursor knows which changes of a partition were not notified. It does no I/O, and is not
// safe for concurrent use.
//
// Invariant: a change with a position above stored was notified, or it is of one of users, with
// a position from the user's first on, or it is above last or, if the cursor is incomplete,
// above read. A change up to stored was notified, or it is of a user that is stored.
type cursor struct {
	lease     partition.Lease
	stored    int64 // the position that is in the database, or lower
	last      int64 // the highest position that is known
	confirmed int64 // the highest position that was confirmed

	// incomplete says that there may be changes above read that are not known. Pages of the
	// log are read until they are.
	incomplete bool
	read       int64
	since      time.Time // none of them is in the log of an earlier day; zero: not known

	began   time.Time // when this process got to know of the lease
	users   map[int64]*unconfirmed
	deleted []int64   // users with a row in ident_held_back that they no longer need
	written time.Time // the day of the last flush
}

// unconfirmed are the unconfirmed notifications of a user.
type unconfirmed struct {
	first, last int64
	committed   time.Time // when first was, or one before it
	noted       time.Time // when this process got to know of it
	stored      int64     // the user has a row in ident_held_back with this position; 0: none
	storing     bool      // a flush is writing that row
}

// newCursor returns the cursor of a partition that was not read.
func newCursor(lease partition.Lease) *cursor {
	return &cursor{lease: lease, incomplete: true, began: time.Now(), users: make(map[int64]*unconfirmed)}
}

// commit notes a change that was committed. It returns true if the cursor has become incomplete,
// because too many users have unconfirmed changes.
func (c *cursor) commit(user, position int64, committed time.Time) (missed bool) {
	if len(c.users) < maxUsers || c.users[user] != nil {
		c.add(user, position, committed)
		return false
	}
	missed = !c.incomplete
	if missed {
		c.forget()
	}
	c.last = max(c.last, position)
	return missed
}

// forget makes the cursor incomplete. It forgets the users that pages of the log have.
func (c *cursor) forget() {
	c.since = c.firstDay(time.Now())
	c.read = c.last
	for _, u := range c.users {
		if u.stored == 0 {
			c.read = min(c.read, u.first-1)
		}
	}
	for user, u := range c.users {
		if u.stored == 0 && !u.storing {
			delete(c.users, user)
		}
	}
	c.incomplete = true
}

// add notes a change that was not notified.
func (c *cursor) add(user, position int64, committed time.Time) {
	c.last = max(c.last, position)
	u := c.users[user]
	if u == nil {
		u = &unconfirmed{first: position, last: position, committed: committed, noted: time.Now()}
		c.users[user] = u
	}
	u.first, u.last = min(u.first, position), max(u.last, position)
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
	c.tidy(user, u)
}

// tidy removes a user without unconfirmed notifications.
func (c *cursor) tidy(user int64, u *unconfirmed) {
	if u.first <= u.last || c.incomplete && u.stored > 0 {
		return
	}
	if u.stored > 0 || u.storing {
		c.deleted = append(c.deleted, user)
	}
	delete(c.users, user)
}

// miss notes that changes above last may have been committed.
func (c *cursor) miss() {
	if !c.incomplete {
		c.since = c.firstDay(time.Now())
		c.incomplete, c.read = true, c.last
	}
}

// pageRead notes that the log was read after a position: up to the position last, or to the
// end.
func (c *cursor) pageRead(after, last int64, end bool) {
	if !c.incomplete || after > max(c.read, c.stored) {
		return
	}
	c.read = max(c.read, last)
	if end {
		c.incomplete = false
		for user, u := range c.users {
			c.tidy(user, u)
		}
	}
}

// target returns how far the cursor may be moved, and the users that are held back then. A user
// that later notifications have overtaken is held back once patience is over.
func (c *cursor) target(now time.Time, patience time.Duration) (position int64, heldBack []int64) {
	position = c.last
	if c.incomplete {
		position = min(c.last, c.read)
	}
	for user, u := range c.users {
		switch {
		case u.stored > 0:
			if u.stored != u.first {
				heldBack = append(heldBack, user)
			}
		case u.first < c.confirmed && now.Sub(u.noted) >= patience:
			heldBack = append(heldBack, user)
		default:
			position = min(position, u.first-1)
		}
	}
	return max(position, c.stored), heldBack
}

// notifiedOn returns the first day of which the log may have changes above the cursor that were
// not notified, except those of users that are held back. It returns zero if that is not known.
func (c *cursor) notifiedOn(now time.Time) time.Time {
	return c.firstDayOf(now, func(u *unconfirmed) bool { return u.stored == 0 })
}

// firstDay returns the first day of which the log may have changes that were not notified. It
// returns zero if that is not known.
func (c *cursor) firstDay(now time.Time) time.Time {
	return c.firstDayOf(now, func(*unconfirmed) bool { return true })
}

func (c *cursor) firstDayOf(now time.Time, counts func(*unconfirmed) bool) time.Time {
	if c.incomplete {
		return c.since
	}
	first := now
	for _, u := range c.users {
		if counts(u) && u.committed.Before(first) {
			first = u.committed
		}
	}
	return first.UTC().Truncate(day).Add(-day)
}

const day = 24 * time.Hour

// survey returns the first unconfirmed notifications of up to limit users. If the log was not
// read yet, it returns one of no user, which has waited since this process has the lease.
func (c *cursor) survey(limit int, now time.Time) (all []actor.StoredNotification) {
	if c.incomplete && len(c.users) == 0 {
		return []actor.StoredNotification{{Partition: c.lease.Partition, Position: max(c.read, c.stored) + 1, Age: now.Sub(c.began)}}
	}
	for user, u := range c.users {
		if u.first > u.last {
			continue
		}
		if len(all) == limit {
			break
		}
		all = append(all, actor.StoredNotification{Partition: c.lease.Partition, Position: u.first, UserID: user, Age: max(0, now.Sub(u.committed))})
	}
	return all
}
