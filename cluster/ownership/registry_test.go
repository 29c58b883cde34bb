package ownership

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

func TestRegistry(t *testing.T) {
	t.Run("lookup", testRegistryLookup)
	t.Run("full", testRegistryFull)
	t.Run("update", testRegistryUpdate)
	t.Run("revenant", testRegistryRevenant)
	t.Run("silence", testRegistrySilence)
	t.Run("heartbeat", testRegistryHeartbeat)
	t.Run("ready_names", testRegistryReadyNames)
	t.Run("must_yield", testRegistryMustYield)
	t.Run("probes", testRegistryProbes)
}

func registryConfig() *Config {
	cfg := DefaultConfig()
	cfg.Window = 2
	return &cfg
}

// The newest incarnation of a name counts.
func testRegistryLookup(t *testing.T) {
	now := time.Unix(100, 0)
	r := newRegistry(registryConfig(), firstSession("b", 10))
	first, result := r.lookup(alice, now)
	if first == nil || first.Member != alice || !first.lastHeard.Equal(now) || result != unchanged {
		t.Errorf("a new member is %+v, %v", first, result)
	}
	if again, result := r.lookup(alice, now.Add(time.Second)); again != first || result != unchanged {
		t.Errorf("the same member is %+v, %v", again, result)
	}
	newer := firstSession("a", alice.Incarnation.Start+1)
	second, result := r.lookup(newer, now)
	if second == nil || second == first || second.Member != newer || result != superseded {
		t.Errorf("a newer incarnation is %+v, %v", second, result)
	}
	if older, result := r.lookup(alice, now); older != nil || result != unchanged {
		t.Errorf("an older incarnation is %+v, %v", older, result)
	}
	if r.find("a") != second || r.find("c") != nil {
		t.Error("the members are not found by their names")
	}
}

// A full registry refuses new names, and reports that once.
func testRegistryFull(t *testing.T) {
	cfg, now := registryConfig(), time.Unix(100, 0)
	cfg.MaxMembers = 1
	r := newRegistry(cfg, firstSession("b", 10))
	r.lookup(alice, now)
	for _, want := range []lookupResult{refused, unchanged} {
		if m, result := r.lookup(carol, now); m != nil || result != want {
			t.Errorf("got %+v, %v, want no member, %v", m, result, want)
		}
	}
	if m, _ := r.lookup(firstSession("a", 99), now); m == nil {
		t.Error("a newer incarnation of a known name is refused")
	}
	r.clock.Echo(now, time.Hour)
	r.suspectSilent(now.Add(forgetAfter * cfg.Heartbeat))
	if m, result := r.lookup(carol, now); m == nil || result != unchanged {
		t.Errorf("after a member was forgotten: %+v, %v", m, result)
	}
}

// A member's wishes are those for leases of this incarnation, at most Window.
func testRegistryUpdate(t *testing.T) {
	now := time.Unix(100, 0)
	self := firstSession("b", 10)
	r := newRegistry(registryConfig(), self)
	m, _ := r.lookup(alice, now)
	m.silent = true
	msg := Message{Seq: 7, State: Ready, Wants: []partition.Lease{
		heldLease(0, 1, carol), heldLease(1, 4, self), heldLease(2, 1, self), heldLease(3, 1, self),
	}}
	r.update(m, &msg, now.Add(time.Second))
	if m.seq != 7 || !m.lastHeard.Equal(now.Add(time.Second)) || !m.inRing() {
		t.Errorf("%+v", m)
	}
	expect(t, m.wants, heldLease(1, 4, self), heldLease(2, 1, self))
	for _, wish := range []struct {
		partition int
		epoch     int64
		want      bool
	}{{1, 4, true}, {1, 5, true}, {1, 3, false}, {3, 1, false}} {
		if got := m.wantsLease(wish.partition, wish.epoch); got != wish.want {
			t.Errorf("partition %d, epoch %d: wanted: %v", wish.partition, wish.epoch, got)
		}
	}
}

// A member that is gone and still sends is returned once per check.
func testRegistryRevenant(t *testing.T) {
	now := time.Unix(100, 0)
	r := newRegistry(registryConfig(), firstSession("b", 10))
	m, _ := r.lookup(alice, now)
	if r.isRevenant(alice) || r.isRevenant(carol) {
		t.Error("a member that is not gone is a revenant")
	}
	m.gone = true
	newer, older := alice, alice
	newer.Incarnation.Session++
	older.Incarnation.Session--
	if r.isRevenant(newer) || !r.isRevenant(older) || !r.isRevenant(alice) {
		t.Error("the incarnations that are gone are not recognized")
	}
	for _, want := range [][]Member{{alice}, nil} {
		_, revenants := r.suspectSilent(now)
		expect(t, revenants, want...)
	}
}

func testRegistrySilence(t *testing.T) {
	cfg, start := registryConfig(), time.Unix(100, 0)
	r := newRegistry(cfg, firstSession("b", 10))
	m, _ := r.lookup(alice, start)
	m.wants = []partition.Lease{heldLease(0, 1, r.self)}
	forgotten := forgetAfter * cfg.Heartbeat
	if suspected, _ := r.suspectSilent(start.Add(forgotten)); len(suspected) > 0 || !m.isAlive() {
		t.Error("a member is suspected although no heartbeat of this instance has come back")
	}
	r.clock.Echo(start, forgotten)
	limit := m.watch.Limit()
	for _, step := range []struct {
		unheard                 time.Duration
		suspected, alive, known bool
	}{
		{limit, false, true, true},
		{limit + 1, true, false, true},
		{limit + 2, false, false, true},
		{forgotten, false, false, false},
	} {
		suspected, _ := r.suspectSilent(start.Add(step.unheard))
		if known := r.find("a") != nil; len(suspected) > 0 != step.suspected || m.isAlive() != step.alive || known != step.known {
			t.Errorf("after %v: suspected: %v, alive: %v, known: %v", step.unheard, suspected, m.isAlive(), known)
		}
	}
	if len(m.wants) > 0 {
		t.Errorf("a silent member wants %+v", m.wants)
	}
}

// The interval grows with the members that are there.
func testRegistryHeartbeat(t *testing.T) {
	cfg, now := registryConfig(), time.Unix(100, 0)
	r := newRegistry(cfg, firstSession("b", 10))
	for n := range 3 * membersPerHeartbeat {
		r.lookup(firstSession(fmt.Sprint("member-", n), 1), now)
	}
	if got := r.heartbeat(); got != 3*cfg.Heartbeat {
		t.Errorf("with %d members it is %v", 3*membersPerHeartbeat, got)
	}
	for _, name := range r.names() {
		r.bury(r.find(name))
	}
	if got := r.heartbeat(); got != cfg.Heartbeat {
		t.Errorf("when they are gone it is %v", got)
	}
}

func testRegistryReadyNames(t *testing.T) {
	members := map[string]State{"a": Ready, "c": Draining, "d": Joining, "e": Ready, "f": Ready, "g": Ready}
	r := registryOf(registryConfig(), members)
	r.find("e").gone, r.find("f").silent, r.find("g").refused = true, true, true
	expect(t, r.names(), "a", "c", "d", "e", "f", "g")
	expect(t, r.ready(Ready), membersOf("a", "b")...)
	expect(t, r.ready(Draining), membersOf("a")...)
	if !r.anyJoining() {
		t.Error("a joining member does not count")
	}
	if r.find("d").refused = true; r.anyJoining() {
		t.Error("a refused member counts as joining")
	}
}

// Of two instances with different parameters, the one that is established stays, else
// the one that started first.
func testRegistryMustYield(t *testing.T) {
	r := newRegistry(registryConfig(), firstSession("b", 10))
	for _, test := range []struct {
		ours   State
		theirs State
		member Member
		want   bool
	}{
		{Ready, Joining, firstSession("a", 1), false},
		{Joining, Leaving, firstSession("a", 99), true},
		{Ready, Draining, firstSession("a", 9), true},
		{Ready, Draining, firstSession("a", 11), false},
		{Joining, Joining, firstSession("a", 10), true},
		{Joining, Joining, firstSession("c", 10), false},
	} {
		if got := r.mustYield(&member{Member: test.member, state: test.theirs}, test.ours); got != test.want {
			t.Errorf("%v as %v, %v: yields: %v", test.ours, r.self, test.member, got)
		}
	}
}

// The two members that follow are probed, and two of the doubtful ones at random.
func testRegistryProbes(t *testing.T) {
	members := map[string]State{"a": Ready, "c": Ready, "d": Ready, "e": Ready}
	for n := range 5 {
		members[fmt.Sprint("x", n)] = Absent
	}
	r := registryOf(registryConfig(), members)
	r.find("c").gone = true
	r.find("a").silent = true
	doubtful := make(map[string]bool)
	random := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		probed := r.appendProbed(nil, random)
		var names []string
		for _, m := range probed {
			names = append(names, m.Name)
		}
		if len(names) != 4 || names[0] != "d" || names[1] != "e" || names[2] == names[3] {
			t.Fatalf("probed: %v", names)
		}
		doubtful[names[2]], doubtful[names[3]] = true, true
	}
	for _, name := range []string{"a", "x0", "x1", "x2", "x3", "x4"} {
		if !doubtful[name] {
			t.Errorf("%s is never probed", name)
		}
	}
	if doubtful["c"] {
		t.Error("a member that is gone is probed")
	}
}
