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
}
