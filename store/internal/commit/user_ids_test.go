package commit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

func TestSkipTaken(t *testing.T) {
	t.Run("waits_no_longer_than_the_context", func(t *testing.T) {
		u := NewUserIDs(t.Context(), nil, nil, zap.NewNop())
		u.skipping <- struct{}{} // as another call does, which waits for the database
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := u.SkipTaken(ctx, 7); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestReservedIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r reservedIDs
		r.put([]int64{5, 6, 7})
		if a, b := r.take(), r.take(); a != 5 || b != 6 {
			t.Errorf("got %d and %d", a, b)
		}
		time.Sleep(reservedFor + 1)
		if id := r.take(); id != 0 {
			t.Errorf("got %d, which has expired", id)
		}
		r.put([]int64{8})
		time.Sleep(reservedFor)
		if a, b := r.take(), r.take(); a != 8 || b != 0 {
			t.Errorf("got %d and %d", a, b)
		}
		r.put([]int64{8, 9, 10})
		r.skip(9)
		if a, b := r.take(), r.take(); a != 10 || b != 0 {
			t.Errorf("got %d and %d, and ids up to 9 are taken", a, b)
		}
		r.put([]int64{7, 8, 9})
		r.put([]int64{9, 11})
		if a, b := r.take(), r.take(); a != 11 || b != 0 {
			t.Errorf("got %d and %d after ids were put that are taken", a, b)
		}
	})
}
