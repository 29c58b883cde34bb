package commit

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

func TestSkipTaken(t *testing.T) {
	t.Run("waits_no_longer_than_the_context", func(t *testing.T) {
		u := NewUserIDs(t.Context(), nil, nil, nil, nil, zap.NewNop())
		u.skipping <- struct{}{} // as another call does, which waits for the database
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := u.SkipTaken(ctx, 7); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestReservedIDs(t *testing.T) {
	wantIDs := func(t *testing.T, r *reservedIDs, want ...int64) {
		t.Helper()
		var got []int64
		for id := r.take(); id != 0; id = r.take() {
			got = append(got, id)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %d, want %d", got, want)
		}
	}
	bubble := func(name string, test func(t *testing.T, r *reservedIDs)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, new(reservedIDs)) })
		})
	}
	bubble("are_used_in_order", func(t *testing.T, r *reservedIDs) {
		r.put([]int64{5, 6})
		r.put([]int64{3})
		wantIDs(t, r, 5, 6, 3)
	})
	bubble("expire", func(t *testing.T, r *reservedIDs) {
		r.put([]int64{5, 6})
		time.Sleep(reservedFor / 2)
		r.put([]int64{7})
		time.Sleep(reservedFor/2 + 1)
		wantIDs(t, r, 7)
		r.put([]int64{8})
		time.Sleep(reservedFor + 1)
		wantIDs(t, r)
	})
	bubble("are_dropped_if_they_are_taken", func(t *testing.T, r *reservedIDs) {
		r.put([]int64{8, 9, 10})
		r.skip(9)
		wantIDs(t, r, 10)
		r.put([]int64{7, 8, 9})
		r.put([]int64{9, 11})
		wantIDs(t, r, 11)
	})
	bubble("are_bounded", func(t *testing.T, r *reservedIDs) {
		for id := range int64(2 * maxReservedIDs) {
			r.put([]int64{id + 1})
		}
		if n := len(r.ids); n != maxReservedIDs || r.take() != maxReservedIDs+1 {
			t.Errorf("there were %d", n)
		}
	})
	bubble("are_as_many_as_were_needed_lately", func(t *testing.T, r *reservedIDs) {
		take := func(n int) {
			for range n {
				r.take()
			}
		}
		take(1)
		if n := r.missing(); n != 0 {
			t.Errorf("a create alone has drawn %d", n)
		}
		take(1)
		if n := r.missing(); n != 1 {
			t.Errorf("the next one has drawn %d", n)
		}
		if n := r.missing(); n != 0 {
			t.Errorf("a create of another instance has drawn %d", n)
		}
		take(3)
		r.put([]int64{1})
		if n := r.missing(); n != 2 {
			t.Errorf("three have drawn %d beside the one that was there", n)
		}
		r.put([]int64{2, 3, 4, 5})
		take(2)
		if n := r.missing(); n != 0 {
			t.Errorf("two have drawn %d though three are left", n)
		}
		time.Sleep(reservedFor + 1)
		take(3)
		if n := r.missing(); n != 2 {
			t.Errorf("three after a pause have drawn %d, the others having expired", n)
		}
		for range 5 {
			take(1)
			time.Sleep(reservedFor)
		}
		if n := r.missing(); n != 0 {
			t.Errorf("a create every second has drawn %d", n)
		}
		take(1)
		take(2 * maxReservedIDs)
		if n := r.missing(); n != maxReservedIDs {
			t.Errorf("very many have drawn %d", n)
		}
	})
}
