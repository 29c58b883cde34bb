package cluster

import "time"

// refusals are the users whose notifications are left to the outbox, since a
// subscriber's queue has refused one, or no key opens one. Each time that one of a
// user's is refused again, the user waits longer: other subscribers get a repeat
// by each try.
type refusals map[int64]*refusal

type refusal struct {
	left  int // how many notifications were left to the outbox
	pause time.Duration
	next  time.Time // when it is tried again
}

const (
	firstRefusal = refusedEvery
	longRefusal  = 30 * time.Second
)

// add adds a user, or one notification more of the user.
func (r refusals) add(user int64, now time.Time) {
	if r[user] == nil {
		r[user] = &refusal{pause: firstRefusal, next: now}
	}
	r[user].left++
}

// due returns the users whose time has come, with how many of their notifications
// were left to the outbox.
func (r refusals) due(now time.Time) map[int64]int {
	due := make(map[int64]int)
	for user, x := range r {
		if !x.next.After(now) {
			due[user] = x.left
		}
	}
	return due
}

// tried notes what became of those who were due. A user of whom nothing is left is
// refused no longer, unless something was left to the outbox meanwhile. Where any
// was taken, it is time for everybody: the queue has room again.
func (r refusals) tried(due map[int64]int, f *found, now time.Time) {
	for user, left := range due {
		x := r[user]
		refused, some := f.refused[user]
		switch {
		case x == nil:
		case refused:
			x.next = now.Add(x.pause)
			x.pause = min(2*x.pause, longRefusal)
		case !some && x.left == left:
			delete(r, user)
		}
	}
	if f.taken == 0 {
		return
	}
	for _, x := range r {
		x.pause, x.next = firstRefusal, now
	}
}
