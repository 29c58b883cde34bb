package commit

import (
	"testing"
	"testing/synctest"
	"time"
)

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
	})
}
