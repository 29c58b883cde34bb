package ownership

import (
	"fmt"
	"testing"
	"time"
)

func TestRing(t *testing.T) {
	t.Run("debounce_ends", testRingDebounceEnds)
	t.Run("schedule", testRingSchedule)
	t.Run("restored_before_change", testRingRestoredBeforeChange)
	t.Run("apply", testRingApply)
}

// The ring waits for further new members, but not as long as new ones keep coming.
func testRingDebounceEnds(t *testing.T) {
	b := newOwner(t, 1)
	debounce := b.core.cfg.Debounce
	for n := range 10 {
		b.hear(firstSession(fmt.Sprint("c", n), 1), 1, Ready)
		b.wait(debounce / 2)
		switch waited := time.Duration(n+1) * debounce / 2; {
		case waited < maxDebounces*debounce:
			expect(t, b.core.ring.names, "b")
		case len(b.core.ring.names) == 1:
			t.Errorf("the ring has been waiting for %v", waited)
		}
	}
}

func ringConfig() *Config {
	cfg := DefaultConfig()
	cfg.Partitions, cfg.Assign = 4, NewTable(4).Assign
	return &cfg
}

// registryOf returns the registry of "b", with the given members.
func registryOf(cfg *Config, members map[string]State) *registry {
	r := newRegistry(cfg, firstSession("b", 10))
	for name, state := range members {
		m, _ := r.lookup(firstSession(name, 1), time.Unix(100, 0))
		m.state = state
	}
	return &r
}

func testRingSchedule(t *testing.T) {
	cfg, now := ringConfig(), time.Unix(100, 0)
	const never = -1
	for name, test := range map[string]struct {
		ring    []string
		state   State
		members map[string]State
		want    time.Duration // until the ring changes
	}{
		"no change":             {[]string{"a", "b"}, Ready, map[string]State{"a": Ready}, never},
		"new member waits":      {[]string{"b"}, Ready, map[string]State{"a": Ready}, cfg.Debounce},
		"removal at once":       {[]string{"a", "b"}, Ready, map[string]State{"a": Draining}, 0},
		"removal and addition":  {[]string{"a", "b"}, Ready, map[string]State{"a": Leaving, "c": Ready}, 0},
		"own removal at once":   {[]string{"a", "b"}, Draining, map[string]State{"a": Ready}, 0},
		"first ring at once":    {nil, Ready, nil, 0},
		"first ring waits":      {nil, Ready, map[string]State{"a": Joining}, cfg.Debounce},
		"joining: ring follows": {nil, Joining, map[string]State{"a": Ready}, never},
	} {
		r := newRing(cfg)
		r.names = test.ring
		r.schedule(now, test.state, registryOf(cfg, test.members))
		if test.want == never {
			if !r.applyAt.IsZero() || r.isDue(now.Add(time.Hour)) {
				t.Errorf("%s: the ring changes at %v", name, r.applyAt)
			}
		} else if got := r.applyAt.Sub(now); got != test.want || !r.isDue(r.applyAt) || r.isDue(r.applyAt.Add(-1)) {
			t.Errorf("%s: the ring changes after %v, want %v", name, got, test.want)
		}
		if test.state == Joining {
			expect(t, r.names, "a")
		}
	}
}

// A member that comes and goes before the ring has changed leaves no trace.
func testRingRestoredBeforeChange(t *testing.T) {
	cfg, now := ringConfig(), time.Unix(100, 0)
	r := newRing(cfg)
	r.names = []string{"b"}
	r.schedule(now, Ready, registryOf(cfg, map[string]State{"a": Ready}))
	r.schedule(now, Ready, registryOf(cfg, map[string]State{"a": Draining}))
	if !r.applyAt.IsZero() || !r.differsSince.IsZero() || r.next != nil {
		t.Errorf("%+v", r)
	}
}

func testRingApply(t *testing.T) {
	cfg := ringConfig()
	r := newRing(cfg)
	expect(t, r.owners, "", "", "", "")
	r.applyAt = time.Unix(100, 0)
	r.apply([]string{"a", "b"})
	expect(t, r.names, "a", "b")
	expect(t, r.owners, Assign([]string{"a", "b"}, 4)...)
	if !r.applyAt.IsZero() {
		t.Errorf("the ring changes again at %v", r.applyAt)
	}
}
