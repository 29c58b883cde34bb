package batch

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestGroupGate(t *testing.T) {
	t.Run("one at a time, and another one beside a slow one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate := newGroupGate()
			begun := time.Now()
			entered := func() (leave func()) {
				leave, ok := gate.enter(nil)
				if !ok {
					t.Error("the gate was not entered")
				}
				return leave
			}
			leave := entered()
			go func() {
				time.Sleep(time.Second) // no group yet
				gate.process(1, func() { time.Sleep(overlapAfter / 2) }, leave)
			}()
			leave = entered()
			if waited := time.Since(begun); waited != time.Second+overlapAfter/2 {
				t.Errorf("the second one entered after %v", waited)
			}
			begun = time.Now()
			go gate.process(1, func() { time.Sleep(time.Second) }, leave)
			leave = entered()
			if waited := time.Since(begun); waited != overlapAfter {
				t.Errorf("the third one entered after %v", waited)
			}
			gate.usual.Store(9)
			gate.gather(func(int) bool { return false }, nil)
			if waited := time.Since(begun); waited != overlapAfter {
				t.Errorf("beside a slow group, items were waited for until %v", waited)
			}
			leave()
			leave() // as after overlapAfter
			time.Sleep(time.Second)
			begun = time.Now()
			entered()
			if waited := time.Since(begun); waited != 0 {
				t.Errorf("the gate is free, and entering took %v", waited)
			}
			if len(gate.token) != 0 {
				t.Error("the gate is free for another one")
			}
		})
	})
	t.Run("closing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate := newGroupGate()
			gate.enter(nil)
			closing := make(chan struct{})
			close(closing)
			if _, ok := gate.enter(closing); ok {
				t.Error("the gate was entered twice")
			}
		})
	})
	t.Run("waits for as many as in a recent group", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const took = 3 * time.Millisecond
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
				processGroup(gate, c.last, c.took)
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
			processGroup(gate, 5, 4*time.Millisecond)
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
			processGroup(gate, 100, time.Millisecond)
			for range 50 {
				processGroup(gate, 1, time.Millisecond)
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
			processGroup(gate, 5, time.Millisecond)
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

func processGroup(gate *groupGate, items int, took time.Duration) {
	gate.process(items, func() { time.Sleep(took) }, func() {})
}
