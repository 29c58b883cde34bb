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
	t.Run("waits shortly for as many as in the last group", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate := newGroupGate()
			for _, c := range []struct {
				last, items int
				want        time.Duration
			}{{0, 1, 0}, {1, 1, 0}, {2, 1, gatherFor}, {20, 19, gatherFor}, {20, 20, 0}, {20, 25, 0}} {
				gate.note(c.last)
				begun := time.Now()
				gate.gather(c.items, nil)
				if waited := time.Since(begun); waited != c.want {
					t.Errorf("with %d items after a group of %d it waited for %v", c.items, c.last, waited)
				}
			}
			closing := make(chan struct{})
			close(closing)
			begun := time.Now()
			gate.gather(1, closing)
			if waited := time.Since(begun); waited != 0 {
				t.Errorf("while closing it waited for %v", waited)
			}
		})
	})
}
