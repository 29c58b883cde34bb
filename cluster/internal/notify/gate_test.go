package notify

import (
	"slices"
	"testing"
	"time"
)

func TestGate(t *testing.T) {
	t.Run("an_open_one_lets_all_through", func(t *testing.T) {
		g := newGate()
		for range maxPending {
			if _, ok := g.take(); !ok {
				t.Fatal("it lets no more through")
			}
		}
	})

	t.Run("probes_are_sent_after_growing_pauses", func(t *testing.T) {
		g, start := newGate(), time.Now()
		round, _ := g.take()
		if !g.refuse(round, true, start) || g.refuse(round, true, start) {
			t.Error("it does not close once")
		}
		var probes []time.Duration
		for now := start; now.Sub(start) < 2*time.Minute; now = now.Add(time.Second) {
			if _, ok := g.take(); ok {
				t.Fatal("it lets more than the probe through")
			}
			if g.allowsProbe(now) {
				probes = append(probes, now.Sub(start))
				g.refuse(g.takeProbe(now), true, now)
			}
		}
		want := []time.Duration{0, 2 * time.Second, 6 * time.Second, 14 * time.Second, 30 * time.Second, 60 * time.Second, 90 * time.Second}
		if !slices.Equal(probes, want) {
			t.Errorf("probes after %v, want %v", probes, want)
		}
	})

	t.Run("one_that_refuses_has_others_sent_once", func(t *testing.T) {
		g, now := newGate(), time.Now()
		round, _ := g.take()
		g.refuse(round, false, now)
		for range 2 * maxPending {
			copied, ok := g.take()
			if !ok || g.accept(copied) || g.refuse(copied, false, now) {
				t.Fatal("a copy is not sent, or changes the gate")
			}
		}
		if !g.allowsProbe(now) {
			t.Error("the probe waits for the copies")
		}
		copied, _ := g.take()
		g.refuse(copied, true, now)
		if _, ok := g.take(); ok || !g.holdsBack() {
			t.Error("copies are sent to a queue that is silent")
		}
	})

	t.Run("opens_step_by_step", func(t *testing.T) {
		g, now := newGate(), time.Now()
		round, _ := g.take()
		late, _ := g.take()
		g.refuse(round, false, now)
		if g.accept(late) {
			t.Error("what was sent before opens it")
		}
		if !g.accept(g.takeProbe(now)) {
			t.Error("the probe does not open it")
		}
		for want := 2; want <= maxPending; want *= 2 {
			var rounds []int
			for {
				round, ok := g.take()
				if !ok || len(rounds) == maxPending {
					break
				}
				rounds = append(rounds, round)
			}
			if len(rounds) != want {
				t.Fatalf("it lets %d through, want %d", len(rounds), want)
			}
			for _, round := range rounds {
				g.accept(round)
			}
		}
	})

	t.Run("allows_one_probe_at_a_time", func(t *testing.T) {
		g, now := newGate(), time.Now()
		round, _ := g.take()
		g.refuse(round, false, now)
		probe := g.takeProbe(now)
		if g.allowsProbe(now.Add(time.Hour)) {
			t.Error("a second probe is allowed")
		}
		g.lose(probe)
		if !g.allowsProbe(now) {
			t.Error("none is allowed after one was lost")
		}
	})
}
