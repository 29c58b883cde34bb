package consume

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// An ackModel is the state of a channel at the broker.
type ackModel struct {
	unacked  map[uint64]bool
	finished map[uint64]bool
}

func (m *ackModel) ack(tag uint64, multiple bool) error {
	if !m.unacked[tag] {
		return errors.New("PRECONDITION_FAILED: unknown delivery tag")
	}
	for other := range m.unacked {
		if other != tag && (!multiple || other > tag) {
			continue
		}
		if !m.finished[other] {
			return errors.New("a delivery is acknowledged that is in flight")
		}
		delete(m.unacked, other)
	}
	return nil
}

// TestAcks checks against a model of the broker that what is done is acknowledged once,
// that nothing else is, and that no acknowledgement is forgotten.
func TestAcks(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := ackModel{unacked: make(map[uint64]bool), finished: make(map[uint64]bool)}
		prefetch := rapid.IntRange(1, 40).Draw(r, "prefetch")
		a := newAcks(prefetch, m.ack)
		must := func(err error) {
			if err != nil {
				r.Fatal(err)
			}
		}
		var open []uint64
		last := uint64(0)
		flushDue := false // flush is to be called
		one := func(r *rapid.T) uint64 {
			if len(open) == 0 {
				r.Skip("nothing is in flight")
			}
			i := rapid.IntRange(0, len(open)-1).Draw(r, "which")
			tag := open[i]
			open = slices.Delete(open, i, i+1)
			return tag
		}
		r.Repeat(map[string]func(*rapid.T){
			"track": func(r *rapid.T) {
				if len(m.unacked) == prefetch {
					r.Skip("the broker sends no more")
				}
				last++
				open, m.unacked[last] = append(open, last), true
				a.track(last)
			},
			"add": func(r *rapid.T) {
				tag := one(r)
				m.finished[tag] = true
				first, err := a.add(tag, rapid.IntRange(0, 9).Draw(r, "urgent") == 0)
				must(err)
				flushDue = first || flushDue && len(a.waiting) > 0
			},
			"refuse": func(r *rapid.T) {
				tag := one(r)
				must(a.reject(tag, func() error { delete(m.unacked, tag); return nil }))
			},
			"flush": func(r *rapid.T) {
				must(a.flush())
				flushDue = false
			},
			"": func(r *rapid.T) {
				if len(a.waiting) > 0 && (!flushDue || len(m.unacked) == prefetch) {
					r.Fatalf("%d acknowledgements wait, and %d of %d deliveries are in flight (flush is due: %t)", len(a.waiting), len(open), prefetch, flushDue)
				}
			},
		})
		must(a.flush())
		if len(m.unacked) != len(open) {
			r.Fatalf("%d are not acknowledged, and %d are in flight", len(m.unacked), len(open))
		}
	})
}

// TestAcksCost has the newest of many deliveries be complete, one after another. The broker goes through the
// others for each acknowledgement.
func TestAcksCost(t *testing.T) {
	for prefetch, want := range map[int]int{256: 63, 2048: 12} { // how many wait at most
		m := ackModel{unacked: make(map[uint64]bool), finished: make(map[uint64]bool)}
		a := newAcks(prefetch, m.ack)
		inFlight := min(prefetch*3/4, 1000)
		most := 0
		for tag := range uint64(inFlight + 200) {
			m.unacked[tag] = true
			a.track(tag)
			if tag < uint64(inFlight) {
				continue
			}
			m.finished[tag] = true
			if _, err := a.add(tag, false); err != nil {
				t.Fatal(err)
			}
			most = max(most, len(a.waiting))
		}
		if most != want {
			t.Errorf("with a prefetch count of %d and %d deliveries in flight, up to %d acknowledgements wait, want %d", prefetch, inFlight, most, want)
		}
	}
}

// TestAcksInOrder has the oldest of many deliveries be complete: their acknowledgements cost little.
func TestAcksInOrder(t *testing.T) {
	m := ackModel{unacked: make(map[uint64]bool), finished: make(map[uint64]bool)}
	a := newAcks(2048, m.ack)
	for tag := range uint64(1200) {
		m.unacked[tag] = true
		a.track(tag)
	}
	for tag := range uint64(200) {
		m.finished[tag] = true
		if _, err := a.add(tag, false); err != nil || len(a.waiting) != int(tag)+1 {
			t.Fatalf("%d of %d acknowledgements wait: %v", len(a.waiting), tag+1, err)
		}
	}
}
