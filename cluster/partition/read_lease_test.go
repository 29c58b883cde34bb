package partition

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestReadLease(t *testing.T) {
	bubble := func(name string, test func(t *testing.T, l *ReadLease, renewed *int)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				renewed := 0
				test(t, NewReadLease(func() { renewed++ }), &renewed)
			})
		})
	}
	bubble("does_not_stand_at_first", func(t *testing.T, l *ReadLease, renewed *int) {
		if l.Stands() || *renewed != 1 {
			t.Errorf("it stands, or was renewed %d times", *renewed)
		}
		if (*ReadLease)(nil).Stands() {
			t.Error("none stands")
		}
	})
	bubble("is_renewed_before_it_ends", func(t *testing.T, l *ReadLease, renewed *int) {
		l.Extend(time.Now())
		time.Sleep(ReadFor - renewWithin)
		if !l.Stands() || *renewed != 0 {
			t.Errorf("it does not stand, or was renewed %d times", *renewed)
		}
		time.Sleep(time.Nanosecond)
		if !l.Stands() || *renewed != 1 {
			t.Errorf("it does not stand, or was renewed %d times", *renewed)
		}
	})
	bubble("ends", func(t *testing.T, l *ReadLease, _ *int) {
		l.Extend(time.Now())
		time.Sleep(ReadFor - 1)
		if !l.Stands() {
			t.Error("it ends too early")
		}
		if time.Sleep(time.Nanosecond); l.Stands() {
			t.Error("it ends too late")
		}
	})
	bubble("an_earlier_question_does_not_shorten_it", func(t *testing.T, l *ReadLease, _ *int) {
		earlier := time.Now()
		time.Sleep(ReadFor / 2)
		l.Extend(time.Now())
		l.Extend(earlier)
		if time.Sleep(ReadFor - 1); !l.Stands() {
			t.Error("it ends too early")
		}
	})
	if DeposedReadsFor < ReadFor+ReadFor/5 {
		t.Error("clocks may differ by a tenth")
	}
}
