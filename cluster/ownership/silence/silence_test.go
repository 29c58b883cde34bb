package silence

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A history has the times at which heartbeats of this instance and of a member arrive.
type history struct {
	random *rand.Rand
	next   time.Duration // each heartbeat says that the next one is due after it
	echoes []time.Duration
	member []time.Duration
}

// newHistory returns a history of some minutes. Each heartbeat comes at most late after its
// time; one of the member's is lost now and then, but never two in a row.
func newHistory(seed uint64, late time.Duration) *history {
	h := &history{random: rand.New(rand.NewPCG(seed, 0))}
	h.next = time.Duration(h.between(200, 10_000)) * time.Millisecond
	for _, times := range []*[]time.Duration{&h.echoes, &h.member} {
		lost := false
		for at := time.Duration(0); at < 3*time.Minute; at += h.next {
			lost = times == &h.member && !lost && at > 0 && h.random.IntN(10) == 0
			if !lost {
				*times = append(*times, at+time.Duration(h.random.Int64N(int64(late))))
			}
		}
		slices.Sort(*times)
	}
	return h
}

func (h *history) between(least, most int) int { return least + h.random.IntN(most-least+1) }

// pause delays all that arrives within the time d after from until the end of it.
func (h *history) pause(from, d time.Duration) {
	for _, times := range [][]time.Duration{h.echoes, h.member} {
		for n, at := range times {
			if from <= at && at < from+d {
				times[n] = from + d + time.Duration(h.random.Int64N(int64(10*time.Millisecond)))
			}
		}
		slices.Sort(times)
	}
}

// run returns the times at which the member is suspected, and its watch at the end. It
// looks each 50 ms, except within a pause of this process.
func (h *history) run(until time.Duration, asleep func(time.Duration) bool) (suspected []time.Duration, w Watch, c Clock) {
	start := time.Unix(1_000_000, 0)
	echoes, member := h.echoes, h.member
	overdue := false
	last := time.Duration(0)
	for at := time.Duration(0); at < until; at += 50 * time.Millisecond {
		if asleep(at) {
			continue
		}
		for len(echoes) > 0 && echoes[0] <= at || len(member) > 0 && member[0] <= at {
			if len(member) == 0 || len(echoes) > 0 && echoes[0] <= member[0] {
				c.Echo(start.Add(max(last, echoes[0])), h.next)
				echoes = echoes[1:]
			} else {
				w.Heard(c.At(start.Add(max(last, member[0]))), h.next)
				member, overdue = member[1:], false
			}
		}
		last = at
		if now := w.IsOverdue(c.At(start.Add(at))); now && !overdue {
			overdue = true
			suspected = append(suspected, at)
		}
	}
	return suspected, w, c
}

func awake(time.Duration) bool { return false }

// A member whose heartbeats come, late and not all of them, is not suspected, although its
// heartbeats or those of this instance may be late by the least margin.
func TestSteadyHeartbeats(t *testing.T) {
	for seed := range uint64(200) {
		h := newHistory(seed, minMargin-60*time.Millisecond)
		if suspected, _, _ := h.run(3*time.Minute, awake); len(suspected) > 0 {
			t.Fatalf("seed %d: heartbeats each %v, and suspected at %v", seed, h.next, suspected)
		}
	}
}

// A member that becomes silent is suspected within its limit, which is bounded whatever
// happened before. If its heartbeats came punctually each half second, it is suspected after 1.7 s.
func TestSilence(t *testing.T) {
	for seed := range uint64(200) {
		late := []time.Duration{20 * time.Millisecond, 20 * time.Second}[seed%2]
		h := newHistory(seed, late)
		h.echoes = newHistory(seed, 20*time.Millisecond).echoes
		silentFrom := time.Duration(h.between(30, 120)) * time.Second
		h.member = slices.DeleteFunc(h.member, func(at time.Duration) bool { return at > silentFrom })
		suspected, w, _ := h.run(3*time.Minute, awake)
		most := intervals*h.next + maxMargin
		if limit := w.Limit(); limit > most || limit < intervals*h.next+minMargin {
			t.Errorf("seed %d: the limit is %v, heartbeats come each %v", seed, limit, h.next)
		}
		if len(suspected) == 0 || suspected[len(suspected)-1] > silentFrom+most+time.Second {
			t.Fatalf("seed %d: silent from %v, suspected at %v", seed, silentFrom, suspected)
		}
	}
	punctual := Since(0)
	for n := range 100 {
		punctual.Heard(time.Duration(n)*500*time.Millisecond, 500*time.Millisecond)
	}
	if limit := punctual.Limit(); limit != 1700*time.Millisecond {
		t.Errorf("the limit of a member that is never late is %v", limit)
	}
	last := 50 * time.Second
	last += time.Hour // it was cut off
	for range 240 {
		punctual.Heard(last, 500*time.Millisecond)
		last += 500 * time.Millisecond
	}
	if limit := punctual.Limit(); limit > 2400*time.Millisecond {
		t.Errorf("two minutes after a long silence the limit is %v", limit)
	}
}

// However long the broker passes nothing on, or this process does not run, no member is
// suspected, in whatever order all that has waited arrives.
func TestPauses(t *testing.T) {
	for seed := range uint64(200) {
		h := newHistory(seed, 100*time.Millisecond)
		from, d := time.Duration(h.between(10, 60))*time.Second, time.Duration(h.between(1, 90_000))*time.Millisecond
		h.pause(from, d)
		asleep := func(at time.Duration) bool { return seed%2 == 0 && from <= at && at < from+d }
		if suspected, _, _ := h.run(3*time.Minute, asleep); len(suspected) > 0 {
			t.Fatalf("seed %d: heartbeats each %v, a pause of %v from %v, and suspected at %v", seed, h.next, d, from, suspected)
		}
	}
}

// Before a heartbeat of this instance has come back, no member is suspected.
func TestNothingHeard(t *testing.T) {
	var c Clock
	w := Since(c.At(time.Unix(1_000_000, 0)))
	if w.IsOverdue(c.At(time.Unix(2_000_000, 0))) {
		t.Error("suspected by an instance that hears not even itself")
	}
	if !c.IsStalled(time.Unix(2_000_000, 0)) {
		t.Error("a clock that has never run is not stalled")
	}
	c.Echo(time.Unix(2_000_000, 0), time.Second)
	for after, want := range map[time.Duration]bool{time.Second + minMargin: false, time.Second + minMargin + 1: true} {
		if got := c.IsStalled(time.Unix(2_000_000, 0).Add(after)); got != want {
			t.Errorf("stalled %v after a heartbeat: %v", after, got)
		}
	}
}

// A member that was suspected wrongly is not suspected again for a silence of the same
// length within a minute. By and by its delay is forgotten.
func TestWrongSuspicion(t *testing.T) {
	const next, silent = 500 * time.Millisecond, 3 * time.Second
	w := Since(0)
	w.Heard(0, next)
	at := silent
	if !w.IsOverdue(at) {
		t.Fatal("not suspected at all")
	}
	for w.Heard(at, next); at < silent+time.Minute; at += next {
		w.Heard(at, next)
		if w.IsOverdue(at + silent) {
			t.Fatalf("suspected again %v after it was heard", at-silent)
		}
	}
	for ; at < 10*time.Minute; at += next {
		w.Heard(at, next)
	}
	if !w.IsOverdue(at + silent) {
		t.Errorf("not suspected after ten minutes; the limit is %v", w.Limit())
	}
}

// A member that returns again and again is spared for longer and longer, up to a minute. That is
// forgotten by and by.
func TestReturns(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	var r Returns
	spared := func() time.Duration {
		for d := maxSpare; d > 0; d -= time.Second / 4 {
			if r.IsSpared(now.Add(d - 1)) {
				return d
			}
		}
		return 0
	}
	for n, want := range []time.Duration{0, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second} {
		r.Note(now)
		r.Note(now.Add(returnEvery - 1)) // another of its leases, at the same time
		if got := spared(); got != want {
			t.Errorf("return %d: spared for %v, want %v", n+1, got, want)
		}
		now = now.Add(max(want, returnEvery))
	}
	for range 10 {
		r.Note(now)
		now = now.Add(returnEvery)
	}
	if got := spared(); got > maxSpare || got < maxSpare-returnEvery {
		t.Errorf("spared for %v at most", got)
	}
	now = now.Add(time.Hour)
	if r.Note(now); spared() != 0 {
		t.Errorf("spared for %v after an hour", spared())
	}
	r = Returns{}
	if r.NoteUnserved(); spared() != 0 {
		t.Errorf("spared for %v although it has not returned", spared())
	}
	if r.Note(now); spared() != maxSpare {
		t.Errorf("spared for %v although its lease cannot be served here", spared())
	}
}
