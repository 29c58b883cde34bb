package cluster

import (
	"slices"
	"testing"
	"time"
)

func TestAUserWhoIsRefusedAgainWaitsLongerUntilSomethingIsTaken(t *testing.T) {
	r, now := make(refusals), time.Now()
	r.add(1, now)
	r.add(2, now)
	sweep := func(refused map[int64]bool, taken int) {
		due := r.due(now)
		for user := range refused {
			if _, ok := due[user]; !ok {
				delete(refused, user)
			}
		}
		r.tried(due, &found{refused, taken}, now)
	}
	var tries []time.Duration
	for begun := now; now.Sub(begun) < 2*time.Minute; now = now.Add(refusedEvery) {
		if len(r.due(now)) > 0 {
			tries = append(tries, now.Sub(begun))
		}
		sweep(map[int64]bool{1: true, 2: true}, 0)
	}
	want := []time.Duration{0, 2 * time.Second, 6 * time.Second, 14 * time.Second, 30 * time.Second,
		60 * time.Second, 90 * time.Second}
	if !slices.Equal(tries, want) {
		t.Errorf("tried after %v, want %v", tries, want)
	}

	now = now.Add(longRefusal)
	sweep(map[int64]bool{1: false, 2: true}, 1)
	if due := r.due(now); len(due) != 2 {
		t.Errorf("when one was taken, %v are due", due)
	}
	r.add(2, now)
	due := r.due(now)
	r.add(2, now) // while it is tried
	r.tried(due, &found{map[int64]bool{}, 0}, now)
	if r[1] != nil || r[2] == nil {
		t.Errorf("nothing of 1 is left, and something of 2; refused are %v", r)
	}
	sweep(map[int64]bool{}, 0)
	if len(r) > 0 {
		t.Errorf("nothing of anybody is left; refused are %v", r)
	}
}
