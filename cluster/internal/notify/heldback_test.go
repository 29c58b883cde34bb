package notify

import (
	"slices"
	"testing"
	"time"
)

func TestHeldBack(t *testing.T) {
	// attempt sends what is due: refused has the users with notifications in the outbox.
	attempt := func(h *heldBack, now time.Time, refused map[int64]bool, accepted int) {
		due := h.due(now)
		for user := range refused {
			if _, ok := due[user]; !ok {
				delete(refused, user)
			}
		}
		h.update(due, &sweepResult{refused, accepted}, now)
	}

	t.Run("pauses_grow_while_refused", func(t *testing.T) {
		h, start := newHeldBack(), time.Now()
		h.add(1, start)
		h.add(2, start)
		var attempts []time.Duration
		for now := start; now.Sub(start) < 2*time.Minute; now = now.Add(retryEvery) {
			if len(h.due(now)) > 0 {
				attempts = append(attempts, now.Sub(start))
			}
			attempt(&h, now, map[int64]bool{1: true, 2: true}, 0)
		}
		want := []time.Duration{0, 2 * time.Second, 6 * time.Second, 14 * time.Second, 30 * time.Second,
			60 * time.Second, 90 * time.Second}
		if !slices.Equal(attempts, want) {
			t.Errorf("attempts after %v, want %v", attempts, want)
		}
	})

	t.Run("all_are_due_when_one_is_accepted", func(t *testing.T) {
		h, now := newHeldBack(), time.Now()
		h.add(1, now)
		h.add(2, now)
		attempt(&h, now, map[int64]bool{1: true, 2: true}, 0)
		if due := h.due(now); len(due) > 0 {
			t.Errorf("due at once after a refusal: %v", due)
		}
		now = now.Add(longestHeldBackPause)
		attempt(&h, now, map[int64]bool{1: false, 2: true}, 1)
		if due := h.due(now); len(due) != 2 {
			t.Errorf("due after one was accepted: %v", due)
		}
	})

	t.Run("ends_when_nothing_is_left", func(t *testing.T) {
		h, now := newHeldBack(), time.Now()
		h.add(1, now)
		h.add(2, now)
		due := h.due(now)
		h.add(2, now) // during the attempt
		h.update(due, &sweepResult{map[int64]bool{}, 0}, now)
		if h.has(1) || !h.has(2) {
			t.Errorf("held back are %v", h.users)
		}
		attempt(&h, now, map[int64]bool{}, 0)
		if h.len() > 0 {
			t.Errorf("held back are %v", h.users)
		}
	})

	t.Run("add_reports_the_first_user", func(t *testing.T) {
		h, now := newHeldBack(), time.Now()
		if !h.add(1, now) || h.add(1, now) || h.add(2, now) {
			t.Error("only the first user is the first")
		}
	})
}
