package notify

import (
	"sync"
	"time"
)

const (
	// firstHeldBackPause is the pause after the first attempt to send held-back
	// notifications of a user again, which is made at once. The pause doubles up to
	// longestHeldBackPause each time that one is refused again, because each attempt
	// repeats the notification for the other subscribers.
	firstHeldBackPause   = retryEvery
	longestHeldBackPause = 30 * time.Second
)

// heldBack has the users with notifications that are held back: the broker has refused
// one of them, or one cannot be decrypted.
type heldBack struct {
	mu    sync.Mutex // guards the following field
	users map[int64]*heldBackUser
}

type heldBackUser struct {
	skipped int // notifications that were left to the outbox
	pause   time.Duration
	next    time.Time // when to try again
}

func newHeldBack() heldBack { return heldBack{users: make(map[int64]*heldBackUser)} }

// add holds a user's notifications back, and counts one that is left to the outbox. It
// returns whether the user is the first one.
func (h *heldBack) add(user int64, now time.Time) (first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first = len(h.users) == 0
	if h.users[user] == nil {
		h.users[user] = &heldBackUser{pause: firstHeldBackPause, next: now}
	}
	h.users[user].skipped++
	return first
}

func (h *heldBack) has(user int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.users[user] != nil
}

// skip is like has, and counts a notification that is left to the outbox.
func (h *heldBack) skip(user int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.users[user]
	if u == nil {
		return false
	}
	u.skipped++
	return true
}

func (h *heldBack) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.users)
}

// due returns the users with notifications that are to be sent again now, each with the
// number of notifications that were left to the outbox so far.
func (h *heldBack) due(now time.Time) map[int64]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	due := make(map[int64]int)
	for user, u := range h.users {
		if !u.next.After(now) {
			due[user] = u.skipped
		}
	}
	return due
}

// update notes the result of sending the notifications of users that were due. A user
// without any in the outbox is held back no longer, unless one was left to the outbox in
// the meantime. If any was accepted, the queue has room again, and all users are due.
func (h *heldBack) update(due map[int64]int, r *sweepResult, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for user, skipped := range due {
		u := h.users[user]
		refused, found := r.refused[user]
		switch {
		case u == nil:
		case refused:
			u.next = now.Add(u.pause)
			u.pause = min(2*u.pause, longestHeldBackPause)
		case !found && u.skipped == skipped:
			delete(h.users, user)
		}
	}
	if r.accepted == 0 {
		return
	}
	for _, u := range h.users {
		u.pause, u.next = firstHeldBackPause, now
	}
}
