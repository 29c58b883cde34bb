package ownership

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/ownership/hashring"
	"github.com/glotpod/ident/cluster/ownership/moves"
)

func TestRing(t *testing.T) {
	t.Run("debounce_ends", testRingDebounceEnds)
	t.Run("schedule", testRingSchedule)
	t.Run("restored_before_change", testRingRestoredBeforeChange)
	t.Run("weights", testRingWeights)
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

func membersOf(names ...string) []hashring.Member {
	var members []hashring.Member
	for _, name := range names {
		members = append(members, hashring.Member{Name: name, Weight: hashring.UsualWeight})
	}
	return members
}

func ringConfig() *Config {
	cfg := DefaultConfig()
	cfg.Partitions, cfg.Assign, cfg.Weight = 4, hashring.NewTable(4).Assign, hashring.UsualWeight
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
		r.setMembers(membersOf(test.ring...))
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
	r.setMembers(membersOf("b"))
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
	r.apply(membersOf("a", "b"))
	expect(t, r.names, "a", "b")
	expect(t, r.owners, hashring.Assign(membersOf("a", "b"), 4)...)
	if !r.applyAt.IsZero() {
		t.Errorf("the ring changes again at %v", r.applyAt)
	}
}

// A ring has the weights of its members, unless one of them has a program that knows of none.
func testRingWeights(t *testing.T) {
	cfg := ringConfig()
	cfg.Weight = 30
	members := registryOf(cfg, map[string]State{"a": Ready, "c": Ready, "d": Draining})
	members.find("a").weight = 5
	expect(t, members.ready(Ready), membersOf("a", "b", "c")...)
	members.find("c").weight = 20
	weighted := []hashring.Member{{Name: "a", Weight: 5}, {Name: "b", Weight: 30}, {Name: "c", Weight: 20}}
	expect(t, members.ready(Ready), weighted...)

	now := time.Unix(100, 0)
	r := newRing(cfg)
	r.apply(membersOf("a", "b", "c"))
	r.schedule(now, Ready, members)
	if got := r.applyAt.Sub(now); got != cfg.Debounce {
		t.Errorf("the ring follows other weights after %v", got)
	}
	r.apply(members.ready(Ready))
	expect(t, r.owners, hashring.Assign(weighted, 4)...)
}

// Moves change the owners at once, and only those of the partitions that are moved.
func TestMoveRequested(t *testing.T) {
	newShared := func(t *testing.T) *bench {
		b := newOwner(t, 16)
		b.hear(alice, 1, Ready, knowsWeights)
		b.wait(2 * b.core.cfg.Debounce)
		return b
	}
	owners := func(b *bench) (owners []string) {
		for _, p := range b.core.Status().Partitions {
			owners = append(owners, p.AssignedTo)
		}
		return owners
	}
	t.Run("assigns_at_once_and_is_undone", func(t *testing.T) {
		b := newShared(t)
		before := owners(b)
		for p, owner := range before {
			sent := only[Broadcast](append(b.step(MoveRequested{Partition: p}), b.wait(b.core.cfg.Spacing)...))
			before[p] = "b"
			expect(t, owners(b), before...)
			if len(sent) == 0 || sent[len(sent)-1].Message.Moves.Version(p) == 0 {
				t.Errorf("the move of partition %d is not announced", p)
			}
			b.step(MoveRequested{Partition: p, Undo: true})
			before[p] = owner
			expect(t, owners(b), before...)
		}
	})
	t.Run("later_one_counts", func(t *testing.T) {
		b := newShared(t)
		b.step(MoveRequested{Partition: 3})
		mine := b.core.Status().Moves.Version(3)
		for seq, test := range []struct {
			version int64
			want    string
		}{{mine - 1, "b"}, {mine, "b"}, {mine + 1, "a"}} { // of two with one version, that to the greater name counts
			b.hear(alice, int64(seq)+2, Ready, knowsWeights, func(m *Message) { m.Moves = moves.List{{Partition: 3, Version: test.version}} })
			if got := owners(b)[3]; got != test.want || (b.core.Status().Moves.Version(3) != 0) != (test.want == "b") {
				t.Errorf("after a move with version %d, %q owns it, and the own moves are %v", test.version, got, b.core.Status().Moves)
			}
		}
		b.step(MoveRequested{Partition: 3})
		if got := b.core.Status().Moves.Version(3); got <= mine+1 || owners(b)[3] != "b" {
			t.Errorf("moved again with version %d, after %d", got, mine+1)
		}
	})
	t.Run("only_while_the_member_is_in_the_ring", func(t *testing.T) {
		b := newShared(t)
		before := owners(b)
		moved := moves.List{}
		for p := range before {
			moved = append(moved, moves.Move{Partition: p, Version: 1})
		}
		withMoves := func(m *Message) { m.Moves = moved }
		b.hear(alice, 2, Ready, knowsWeights, withMoves)
		if got := owners(b); slices.Contains(got, "b") {
			t.Errorf("after the move: %v", got)
		}
		b.hear(alice, 3, Draining, knowsWeights, withMoves)
		if got := owners(b); slices.Contains(got, "a") {
			t.Errorf("while it drains: %v", got)
		}
		b.hear(alice, 4, Ready, knowsWeights, withMoves)
		b.wait(2 * b.core.cfg.Debounce)
		if got := owners(b); slices.Contains(got, "b") {
			t.Errorf("when it takes part again: %v", got)
		}
		b.hear(firstSession("a", 8), 1, Ready, knowsWeights)
		b.wait(2 * b.core.cfg.Debounce)
		expect(t, owners(b), before...)
	})
	t.Run("not_beside_an_older_program", func(t *testing.T) {
		b := newShared(t)
		before := owners(b)
		b.step(MoveRequested{Partition: slices.Index(before, "a")})
		b.hear(firstSession("a", 8), 1, Ready)
		b.wait(2 * b.core.cfg.Debounce)
		expect(t, owners(b), before...)
	})
	t.Run("refused_if_not_ready_or_no_partition", func(t *testing.T) {
		b := newShared(t)
		b.step(MoveRequested{Partition: -1})
		b.step(MoveRequested{Partition: 16})
		b.step(DrainRequested{})
		b.step(MoveRequested{Partition: 3})
		if got := b.core.Status().Moves; len(got) > 0 {
			t.Errorf("moved %v", got)
		}
	})
	t.Run("kept_in_the_next_session", func(t *testing.T) {
		b := newShared(t)
		p := slices.Index(owners(b), "a")
		b.step(MoveRequested{Partition: p})
		b.step(Disconnected{})
		b.step(Connected{Session: 2})
		b.hear(alice, 2, Ready, knowsWeights)
		b.wait(2 * b.core.cfg.Debounce)
		if got := owners(b)[p]; got != "b" {
			t.Errorf("%q owns it", got)
		}
	})
}

// knowsWeights makes a message that of a program that knows of weights and moves.
func knowsWeights(m *Message) { m.Weight = hashring.UsualWeight }
