package store

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAnIDThatWasDrawnAheadIsGivenOnceAndSoonOrNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s spares
		s.put([]int64{5, 6, 7})
		if a, b := s.take(), s.take(); a != 5 || b != 6 {
			t.Errorf("got %d and %d", a, b)
		}
		time.Sleep(spareFor + 1)
		if id := s.take(); id != 0 {
			t.Errorf("got %d, which is too old", id)
		}
		s.put([]int64{8})
		time.Sleep(spareFor)
		if a, b := s.take(), s.take(); a != 8 || b != 0 {
			t.Errorf("got %d and %d", a, b)
		}
	})
}
