package ownership

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
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

func names(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("ident-%d", i))
	}
	return names
}

func TestTable(t *testing.T) {
	t.Run("same_everywhere", testTableSameEverywhere)
	t.Run("no_history", testTableNoHistory)
	t.Run("moves_little", testTableMovesLittle)
}

// Different builds have to agree on the table. If this fails, either undo the change or
// raise TableVersion, so that the two builds do not work together.
func testTableSameEverywhere(t *testing.T) {
	sum := fnv.New64a()
	for _, partitions := range []int{1, 2, 7, 64, 1024} {
		for _, members := range []int{1, 2, 3, 10, 30} {
			fmt.Fprintln(sum, partitions, members, Assign(names(members), partitions))
		}
	}
	const version, want = 1, uint64(0xbd2e438d5070daf2)
	if got := sum.Sum64(); TableVersion != version || got != want {
		t.Errorf("table version %d has the sum %#x; version %d had %#x", TableVersion, got, version, want)
	}
}

// Any number of members can share any number of partitions: each partition has an
// owner, and no owner has more than a quarter above the average.
func TestAssign(t *testing.T) {
	for _, partitions := range []int{1, 2, 10, 64, 271} {
		for _, n := range []int{1, 2, 3, 4, 7, 30} {
			owners := Assign(names(n), partitions)
			load := make(map[string]int)
			for _, owner := range owners {
				load[owner]++
			}
			most := (5*partitions + 4*n - 1) / (4 * n) // 1.25 of the average, rounded up
			for owner, partitions := range load {
				if !slices.Contains(names(n), owner) || partitions > most {
					t.Errorf("%d partitions, %d members: %q has %d", len(owners), n, owner, partitions)
				}
			}
			if len(owners) != partitions {
				t.Errorf("%d owners for %d partitions", len(owners), partitions)
			}
		}
	}
	if got := Assign(nil, 3); !slices.Equal(got, []string{"", "", ""}) {
		t.Errorf("without members: %q", got)
	}
	if got := Assign(names(2), 0); got != nil {
		t.Errorf("without partitions: %q", got)
	}
	members := []string{"c", "a", "b", "a", "c"}
	if got, want := Assign(members, 64), Assign([]string{"a", "b", "c"}, 64); !slices.Equal(got, want) {
		t.Error("order and repetitions matter")
	}
	if !slices.Equal(members, []string{"c", "a", "b", "a", "c"}) {
		t.Error("the arguments are changed")
	}
}

// A table that has had other members assigns like a new one.
func testTableNoHistory(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	const partitions = 100
	table, all := NewTable(partitions), names(12)
	slices.Sort(all)
	for range 50 {
		var members []string
		for _, name := range all {
			if random.IntN(2) == 0 {
				members = append(members, name)
			}
		}
		if got, want := table.Assign(members), Assign(members, partitions); !slices.Equal(got, want) {
			t.Fatalf("%v: %v, not %v", members, got, want)
		}
	}
}

// A member that joins or leaves moves about its share of the partitions, and few
// between the other members.
func testTableMovesLittle(t *testing.T) {
	const partitions = 1024
	for _, n := range []int{2, 3, 5, 10, 30} {
		var moved, between, total int
		before := Assign(names(n), partitions)
		for left := range min(n, 5) {
			gone := fmt.Sprintf("ident-%d", left)
			after := Assign(slices.DeleteFunc(names(n), func(name string) bool { return name == gone }), partitions)
			for p := range before {
				total++
				if before[p] != after[p] {
					moved++
					if before[p] != gone {
						between++
					}
				}
			}
		}
		ideal, share := 1/float64(n), float64(moved)/float64(total)
		t.Logf("%3d members: one of them leaves, and %4.1f %% move; the ideal is %4.1f %%; %.1f %% between others",
			n, 100*share, 100*ideal, 100*float64(between)/float64(total))
		if share > 1.25*ideal+0.03 {
			t.Errorf("%d members: %.1f %% of the partitions move", n, 100*share)
		}
	}
}

func BenchmarkTable(b *testing.B) {
	for _, n := range []int{3, 10, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			all := names(n)
			slices.Sort(all)
			table := NewTable(1024)
			table.Assign(all)
			for b.Loop() {
				table.Assign(all[1:])
				table.Assign(all)
			}
		})
	}
}
