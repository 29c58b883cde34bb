package store

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneHasTheTurnAtATimeUnlessItTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turn := newTurn()
		first := turn.take(t.Context())
		begun := time.Now()
		go func() {
			time.Sleep(overlapAfter / 2)
			first()
		}()
		second := turn.take(t.Context())
		if waited := time.Since(begun); waited != overlapAfter/2 {
			t.Errorf("the second had its turn after %v", waited)
		}
		third := turn.take(t.Context()) // beside the second
		if waited := time.Since(begun); waited != overlapAfter/2+overlapAfter {
			t.Errorf("the third had its turn after %v", waited)
		}
		third()
		begun = time.Now()
		fourth := turn.take(t.Context())
		if waited := time.Since(begun); waited != overlapAfter {
			t.Errorf("the fourth had its turn after %v, while the second one has it", waited)
		}
		fourth()
		second()
		begun = time.Now()
		turn.take(t.Context())()
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("nobody has the turn, and it took %v", waited)
		}
	})
}

func TestWhoWaitsForTheTurnGoesOnWhenTheStoreCloses(t *testing.T) {
	turn := newTurn()
	turn.take(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	turn.take(ctx)()
}
