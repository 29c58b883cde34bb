package batch

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestGroupGate(t *testing.T) {
	t.Run("one at a time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate := newGroupGate()
			leaveFirst := gate.enter(nil)
			begun := time.Now()
			time.AfterFunc(overlapAfter/2, leaveFirst)
			leaveSecond := gate.enter(nil)
			if waited := time.Since(begun); waited != overlapAfter/2 {
				t.Errorf("the second one entered after %v", waited)
			}
			leaveThird := gate.enter(nil) // beside the second
			if waited := time.Since(begun); waited != overlapAfter/2+overlapAfter {
				t.Errorf("the third one entered after %v", waited)
			}
			leaveThird()
			begun = time.Now()
			leaveFourth := gate.enter(nil)
			if waited := time.Since(begun); waited != overlapAfter {
				t.Errorf("the fourth one entered after %v, while the second one is inside", waited)
			}
			leaveFourth()
			leaveSecond()
			begun = time.Now()
			gate.enter(nil)()
			if waited := time.Since(begun); waited != 0 {
				t.Errorf("the gate is free, and entering took %v", waited)
			}
		})
	})
	t.Run("closing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate := newGroupGate()
			gate.enter(nil)
			closing := make(chan struct{})
			close(closing)
			begun := time.Now()
			gate.enter(closing)()
			if waited := time.Since(begun); waited != 0 {
				t.Errorf("entering took %v", waited)
			}
		})
	})
	t.Run("waits for as many as in a recent group", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const took = 4 * time.Millisecond
			for _, c := range []struct {
				last, items int
				took, want  time.Duration
			}{
				{1, 1, took, 0},
				{2, 1, took, 2 * took},
				{20, 19, took, 2 * took},
				{20, 20, took, 0},
				{20, 25, took, 0},
				{100, enoughItems, took, 0},
				{2, 1, time.Second, gatherAtMost},
			} {
				gate := newGroupGate()
				gate.note(c.last, c.took)
				begun := time.Now()
				gate.gather(func(enough int) bool { return c.items >= enough }, nil)
				if waited := time.Since(begun); waited != c.want {
					t.Errorf("with %d items after a group of %d that took %v it waited for %v", c.items, c.last, c.took, waited)
				}
			}
		})
	})
	t.Run("waits no longer when the items have come", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate := newGroupGate()
			gate.note(5, 4*time.Millisecond)
			begun, items := time.Now(), 1
			gate.gather(func(enough int) bool { items++; return items >= enough }, nil)
			if waited := time.Since(begun); waited == 0 || waited > 4*time.Millisecond || items != 5 {
				t.Errorf("it waited for %v and saw %d items", waited, items)
			}
		})
	})
	t.Run("waits no longer for a large group that was long ago", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate := newGroupGate()
			gate.note(100, time.Millisecond)
			for range 50 {
				gate.note(1, time.Millisecond)
			}
			begun := time.Now()
			gate.gather(func(enough int) bool { return enough <= 1 }, nil)
			if waited := time.Since(begun); waited != 0 {
				t.Errorf("it waited for %v", waited)
			}
		})
	})
	t.Run("does not wait when closing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate := newGroupGate()
			gate.note(5, time.Millisecond)
			closing := make(chan struct{})
			close(closing)
			begun := time.Now()
			gate.gather(func(enough int) bool { return enough <= 1 }, closing)
			if waited := time.Since(begun); waited != 0 {
				t.Errorf("it waited for %v", waited)
			}
		})
	})
}
