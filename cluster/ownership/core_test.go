package ownership

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// A bench has one core, and plays the part of everything around it.
type bench struct {
	t    *testing.T
	core *Core
	now  time.Time
}

// newBench returns a bench whose core, named "b", is ready and alone in the ring. The
// core has claimed all partitions, and has no replies yet.
func newBench(t *testing.T, partitions int) (*bench, []Claim) {
	cfg := DefaultConfig()
	cfg.Name, cfg.Start, cfg.Partitions = "b", 10, partitions
	core, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, core: core, now: time.Unix(0, 0)}
	b.step(Connected{Session: 1})
	return b, only[Claim](b.wait(cfg.Debounce))
}

// newOwner returns a bench whose core owns all partitions under epoch 1.
func newOwner(t *testing.T, partitions int) *bench {
	b, claims := newBench(t, partitions)
	for _, claim := range claims {
		b.win(claim, 1)
	}
	return b
}

func (b *bench) step(e Event) []Command {
	b.t.Helper()
	commands := b.core.Step(b.now, e)
	checkInvariants(b.t, b.core)
	return commands
}

// wait advances the time by d, and returns the commands given meanwhile.
func (b *bench) wait(d time.Duration) []Command {
	b.t.Helper()
	var commands []Command
	end := b.now.Add(d)
	for {
		wake := b.core.NextTick()
		if wake.IsZero() || wake.After(end) {
			break
		}
		b.now = wake
		commands = append(commands, b.step(Tick{})...)
	}
	b.now = end
	return commands
}

// win lets a claim succeed and its consumer start.
func (b *bench) win(claim Claim, epoch int64) {
	b.t.Helper()
	b.step(Claimed{Partition: claim.Partition, Attempt: claim.Attempt, Epoch: epoch})
	b.step(Consuming{Partition: claim.Partition, Epoch: epoch})
}

// hear delivers a message of a member.
func (b *bench) hear(from Member, seq int64, state State, change ...func(*Message)) []Command {
	b.t.Helper()
	msg := Message{From: from, Seq: seq, State: state, Parameters: b.core.cfg.parameters()}
	for _, f := range change {
		f(&msg)
	}
	return b.step(MessageReceived{Message: msg})
}

// only returns the commands of one type.
func only[C Command](commands []Command) []C {
	var found []C
	for _, command := range commands {
		if c, ok := command.(C); ok {
			found = append(found, c)
		}
	}
	return found
}

func expect[C comparable](t *testing.T, got []C, want ...C) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// checkInvariants checks the invariants between two events.
func checkInvariants(t *testing.T, c *Core) {
	t.Helper()
	busy := 0
	var moving []int
	for p, part := range c.partitions {
		if part.phase != idle {
			busy++
		}
		if part.phase == handingOver {
			moving = append(moving, p)
		}
		if part.phase != idle && !c.connected() {
			t.Errorf("partition %d is %v without a session", p, part.phase)
		}
		if m := c.members[part.holder.Name]; part.waitsForHolder() && (m == nil || m.Member != part.holder || !m.isAlive()) {
			t.Errorf("partition %d waits for %v, which is no more", p, part.holder)
		}
	}
	if noted := slices.Sorted(slices.Values(c.handovers)); c.active != busy || !slices.Equal(noted, moving) {
		t.Errorf("%d partitions are busy, not %d, and %v are moving, not %v", busy, c.active, moving, noted)
	}
	if !slices.IsSorted(c.ring) {
		t.Errorf("the ring is not sorted: %v", c.ring)
	}
}

// firstSession returns a member in its first session.
func firstSession(name string, start int64) Member {
	return Member{Name: name, Incarnation: Incarnation{Start: start, Session: 1}}
}

var (
	alice = firstSession("a", 7)
	carol = firstSession("c", 8)
)

func TestClaim(t *testing.T) {
	t.Run("late_win_released", testClaimLateWinReleased)
	t.Run("unwanted_win_released", testClaimUnwantedWinReleased)
	t.Run("own_lease_deposed", testClaimOwnLeaseDeposed)
	t.Run("backoff_ends_with_outage", testClaimBackoffEndsWithOutage)
	t.Run("lost_lease_not_claimed_back", testClaimLostLeaseNotClaimedBack)
	t.Run("unknown_holder_gets_time", testClaimUnknownHolderGetsTime)
}

// A claim that was sent before the connection was lost may succeed much later. Its
// lease belongs to an incarnation that is over, and is released.
func testClaimLateWinReleased(t *testing.T) {
	for _, claimedAnew := range []bool{false, true} {
		b, claims := newBench(t, 1)
		b.step(Disconnected{})
		b.step(Connected{Session: 2})
		if claimedAnew {
			b.wait(time.Second)
		}
		got := b.step(Claimed{Partition: 0, Attempt: claims[0].Attempt, Epoch: 5})
		expect(t, only[Release](got), Release{Partition: 0, Epoch: 5})
		expect(t, only[Consume](got))
	}
}

// A lease won after the ring has changed is released.
func testClaimUnwantedWinReleased(t *testing.T) {
	b, claims := newBench(t, 1)
	b.step(DrainRequested{})
	got := b.step(Claimed{Partition: 0, Attempt: claims[0].Attempt, Epoch: 5})
	expect(t, only[Release](got), Release{Partition: 0, Epoch: 5})
	expect(t, only[Consume](got))
}

// A claim with an unknown outcome is repeated, and finds that it had succeeded. Nothing
// runs under that epoch, so it is deposed.
func testClaimOwnLeaseDeposed(t *testing.T) {
	b, claims := newBench(t, 1)
	b.step(ClaimFailed{Partition: 0, Attempt: claims[0].Attempt})
	again := only[Claim](b.wait(time.Second))
	row := Row{HeldLease: HeldLease{Lease: partition.Lease{Partition: 0, Epoch: 1}, Holder: b.core.self}}
	got := only[Claim](b.step(ClaimRefused{Attempt: again[0].Attempt, Row: row}))
	expect(t, got, Claim{Partition: 0, Attempt: again[0].Attempt + 1, Depose: 1, By: b.core.self})
}

// Failed claims are repeated after a delay, and as soon as the database is back after
// an outage. One reply among failures is not the end of an outage.
func testClaimBackoffEndsWithOutage(t *testing.T) {
	for _, failures := range []int{1, 5} {
		b, claims := newBench(t, 2)
		for claim := claims[0]; ; {
			b.step(ClaimFailed{Partition: claim.Partition, Attempt: claim.Attempt})
			if failures--; failures == 0 {
				break
			}
			claim = only[Claim](b.wait(3 * b.core.cfg.Heartbeat))[0]
		}
		outage := b.now.Sub(b.core.claimsFailSince) > 0
		got := only[Claim](b.step(Claimed{Partition: 1, Attempt: claims[1].Attempt, Epoch: 1}))
		if again := len(got) == 1; again != outage {
			t.Errorf("after an outage: %v; claims: %+v", outage, got)
		}
	}
}

// A lost lease is claimed as if it had never been held: the claim asks for a released
// row, and does not depose the remembered epoch.
func testClaimLostLeaseNotClaimedBack(t *testing.T) {
	b := newOwner(t, 1)
	b.wait(10 * time.Second)
	got := b.step(LeaseLost{Partition: 0, Epoch: 1})
	expect(t, only[Abandon](got), Abandon{Partition: 0, Epoch: 1})
	claims := only[Claim](got)
	if len(claims) != 1 || claims[0].Depose != 0 {
		t.Errorf("got %+v, want one claim that deposes nobody", claims)
	}
}

// A message of a holder known from the epoch table alone may be about to arrive. The
// holder is deposed when the broker reports that it is gone, or when it has been silent
// for long.
func testClaimUnknownHolderGetsTime(t *testing.T) {
	for _, certain := range []bool{true, false} {
		b, claims := newBench(t, 1)
		row := Row{HeldLease: HeldLease{Lease: partition.Lease{Partition: 0, Epoch: 3}, Holder: alice}}
		got := b.step(ClaimRefused{Attempt: claims[0].Attempt, Row: row})
		expect(t, only[Claim](got))
		got = b.wait(time.Second / checksPerHeartbeat)
		expect(t, only[Probe](got), Probe{Member: alice})
		expect(t, only[Claim](got))
		if certain {
			got = b.step(MemberGone{Member: alice})
		} else {
			got = b.wait(b.core.cfg.SuspectAfter)
		}
		if deposed := only[Claim](got); len(deposed) != 1 || deposed[0].Depose != 3 {
			t.Errorf("got %+v, want epoch 3 to be deposed", deposed)
		}
	}
}

func TestHandOver(t *testing.T) {
	t.Run("lease_claimed_again", testHandOverLeaseClaimedAgain)
	t.Run("unknown_lease_released", testHandOverUnknownLeaseReleased)
	t.Run("leaves_unasked", testHandOverLeavesUnasked)
}

// A member that asks for a lease has read the epoch table some time ago. Meanwhile the
// owner may have claimed the partition again.
func testHandOverLeaseClaimedAgain(t *testing.T) {
	b, claims := newBench(t, 1)
	b.win(claims[0], 3)
	wish := HeldLease{Lease: partition.Lease{Partition: 0, Epoch: 2}, Holder: b.core.self}
	wants := func(m *Message) { m.Wants = []HeldLease{wish} }
	expect(t, only[HandOver](b.hear(alice, 1, Ready, wants)))
	expect(t, only[HandOver](b.step(DrainRequested{})), HandOver{Partition: 0, Epoch: 3, To: alice})
}

func TestRing(t *testing.T) {
	t.Run("debounce_ends", testRingDebounceEnds)
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
			expect(t, b.core.ring, "b")
		case len(b.core.ring) == 1:
			t.Errorf("the ring has been waiting for %v", waited)
		}
	}
}

// A member asks for a lease that, according to the epoch table, is ours, but that we do
// not know: the reply to its claim was lost when the lease was no longer needed.
func testHandOverUnknownLeaseReleased(t *testing.T) {
	b, _ := newBench(t, 1)
	b.step(DrainRequested{})
	b.step(Disconnected{})
	b.step(Connected{Session: 2})
	b.wait(time.Second)
	wish := HeldLease{Lease: partition.Lease{Partition: 0, Epoch: 4}, Holder: b.core.self}
	got := b.hear(alice, 1, Ready, func(m *Message) { m.Wants = []HeldLease{wish} })
	expect(t, only[Release](got), Release{Partition: 0, Epoch: 4})

	b.wait(time.Second)
	got = b.step(Surveyed{Rows: []Row{{HeldLease: wish}}})
	expect(t, only[Release](got), Release{Partition: 0, Epoch: 4})
}

// What no message has told is found in the epoch table.
func TestSurvey(t *testing.T) {
	b := newOwner(t, 2)
	interval := heartbeatsPerSurvey * b.core.cfg.Heartbeat
	if surveys := only[Survey](b.wait(10 * interval)); len(surveys) < 8 || len(surveys) > 11 {
		t.Errorf("%d surveys in ten intervals", len(surveys))
	}
	taken := Row{HeldLease: HeldLease{Lease: partition.Lease{Partition: 0, Epoch: 2}, Holder: alice}}
	held := Row{HeldLease: HeldLease{Lease: partition.Lease{Partition: 1, Epoch: 1}, Holder: b.core.self}}
	got := b.step(Surveyed{Rows: []Row{taken, held}})
	expect(t, only[Abandon](got), Abandon{Partition: 0, Epoch: 1})

	b.hear(alice, 1, Draining)
	b.step(ClaimRefused{Attempt: only[Claim](got)[0].Attempt, Row: taken})
	free := taken
	free.Released = true
	got = b.step(Surveyed{Rows: []Row{free, held}})
	if claims := only[Claim](got); len(claims) != 1 || claims[0].Partition != 0 {
		t.Errorf("got %+v, want partition 0 to be claimed", claims)
	}
}

func TestMembers(t *testing.T) {
	t.Run("reconnects_if_declared_gone", testMembersReconnectsIfDeclaredGone)
	t.Run("late_messages", testMembersLateMessages)
	t.Run("hostile_messages", testMembersHostileMessages)
}

// If other members believe that this instance is gone, it starts a new session.
func testMembersReconnectsIfDeclaredGone(t *testing.T) {
	b := newOwner(t, 1)
	self := b.core.self
	got := b.hear(alice, 1, Ready, func(m *Message) { m.Gone = []Member{self} })
	expect(t, only[Abandon](got), Abandon{Partition: 0, Epoch: 1})
	if len(only[Reconnect](got)) != 1 || b.core.connected() {
		t.Errorf("got %+v, want a new session", got)
	}
	// A late message about the earlier session has no effect.
	b.step(Connected{Session: 2})
	got = b.hear(alice, 2, Ready, func(m *Message) { m.Gone = []Member{self} })
	expect(t, only[Reconnect](got))
}

// The newest incarnation of a name counts, and the newest message of an incarnation. A
// member that is gone stays gone, and is told so.
func testMembersLateMessages(t *testing.T) {
	b := newOwner(t, 1)
	newer := firstSession("a", alice.Incarnation.Start+1)
	ring := func(want ...string) {
		t.Helper()
		b.wait(time.Second)
		expect(t, b.core.ring, want...)
	}
	b.hear(alice, 5, Ready)
	ring("a", "b")
	b.hear(alice, 4, Joining)
	ring("a", "b")
	b.hear(newer, 1, Joining)
	ring("b")
	b.hear(alice, 6, Ready)
	ring("b")
	b.hear(newer, 2, Ready)
	ring("a", "b")
	b.step(MemberGone{Member: newer})
	ring("b")
	b.hear(newer, 3, Ready)
	said := only[Broadcast](b.wait(time.Second / 2))
	ring("b")
	if !slices.ContainsFunc(said, func(m Broadcast) bool { return slices.Contains(m.Message.Gone, newer) }) {
		t.Errorf("%v is heard, and not told that it is gone", newer)
	}
}

// An instance that leaves releases its partitions if no member asks for them for long.
func testHandOverLeavesUnasked(t *testing.T) {
	b := newOwner(t, 1)
	b.hear(alice, 1, Ready)
	got := append(b.step(LeaveRequested{}), b.wait(b.core.cfg.SuspectAfter-time.Second)...)
	expect(t, only[HandOver](got))
	b.hear(alice, 2, Ready)
	got = b.wait(time.Second + b.core.cfg.Heartbeat/checksPerHeartbeat)
	expect(t, only[HandOver](got), HandOver{Partition: 0, Epoch: 1})

	got = b.step(HandedOver{Partition: 0, Epoch: 1})
	said := only[Broadcast](got)
	if len(said) != 1 || said[0].Message.State != Left || len(said[0].Message.Released) != 1 {
		t.Errorf("the last message is %+v", said)
	}
	expect(t, only[ReportState](got), ReportState{State: Left})
	expect(t, b.step(LeaveRequested{}))
}

// No message of another member makes an instance keep more than its settings allow.
func testMembersHostileMessages(t *testing.T) {
	b := newOwner(t, 4)
	var wishes []HeldLease
	for p := -2; p < 100; p++ {
		wishes = append(wishes, HeldLease{Lease: partition.Lease{Partition: p, Epoch: 1 << 40}, Holder: b.core.self})
	}
	refusals := 0
	for n := range 3 * b.core.cfg.MaxMembers {
		got := b.hear(firstSession(fmt.Sprint("stranger", n), 1), 1, Joining, func(m *Message) {
			m.Wants, m.Granted, m.Released, m.Taken = wishes, wishes, wishes[:2], wishes[:2]
		})
		refusals += len(only[ReportRefusal](got))
	}
	if len(b.core.members) != b.core.cfg.MaxMembers || refusals != 1 {
		t.Errorf("%d members are kept, %d refused", len(b.core.members), refusals)
	}
	for name, m := range b.core.members {
		if len(m.wants) > b.core.cfg.Window {
			t.Errorf("%d wishes of %s are kept", len(m.wants), name)
		}
	}
	b.wait(time.Minute)
	if len(b.core.members) != 0 {
		t.Errorf("%d members are kept that were not heard for long", len(b.core.members))
	}
}

// Whatever events come, in whatever order, the core neither panics nor violates its
// invariants.
func TestAnyEvents(t *testing.T) {
	for seed := range uint64(150) {
		random := rand.New(rand.NewPCG(seed, 0))
		b, _ := newBench(t, 3)
		who := func() Member {
			names := []string{"a", "b", "c", "d"}
			return Member{
				Name:        names[random.IntN(len(names))],
				Incarnation: Incarnation{Start: 8 + random.Int64N(3), Session: 1 + random.Int64N(3)},
			}
		}
		part := func() int { return random.IntN(3) }
		epoch := func() int64 { return random.Int64N(6) }
		attempt := func() uint64 { return b.core.lastAttempt - random.Uint64N(3) }
		leases := func() (leases []HeldLease) {
			for range random.IntN(3) {
				leases = append(leases, HeldLease{Lease: partition.Lease{Partition: part(), Epoch: epoch()}, Holder: who()})
			}
			return leases
		}
		row := func() Row {
			return Row{HeldLease: HeldLease{Lease: partition.Lease{Partition: part(), Epoch: epoch()}, Holder: who()}, Released: random.IntN(3) == 0}
		}
		session := int64(1)
		for range 400 {
			b.now = b.now.Add(time.Duration(random.Int64N(int64(time.Second))))
			switch random.IntN(14) {
			case 0:
				session++
				b.step(Connected{Session: session})
			case 1:
				if random.IntN(3) == 0 {
					b.step(Disconnected{})
				}
			case 2, 3:
				b.hear(who(), random.Int64N(100), State(random.IntN(6)), func(m *Message) {
					m.Wants, m.Released, m.Taken = leases(), leases(), leases()
				})
			case 4:
				b.step(MemberGone{Member: who()})
			case 5, 6:
				b.step(Claimed{Partition: part(), Attempt: attempt(), Epoch: epoch()})
			case 7:
				b.step(ClaimRefused{Attempt: attempt(), Row: row()})
			case 8:
				b.step(ClaimFailed{Partition: part(), Attempt: attempt()})
			case 9, 10:
				p := part()
				b.step(Consuming{Partition: p, Epoch: b.core.partitions[p].epoch})
			case 11:
				p := part()
				b.step(LeaseLost{Partition: p, Epoch: b.core.partitions[p].epoch})
			case 12:
				p := part()
				b.step(HandedOver{Partition: p, Epoch: b.core.partitions[p].epoch})
			case 13:
				events := []Event{DrainRequested{}, UndrainRequested{}, Surveyed{Rows: []Row{row(), row()}}, LeaseReleased{Partition: part(), Epoch: epoch()}}
				b.step(events[random.IntN(len(events))])
			}
			b.core.Status()
		}
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

func TestStatus(t *testing.T) {
	t.Run("copy", testStatusCopy)
	t.Run("newcomer_settled_last", testStatusNewcomerSettledLast)
}

// Status returns all members and partitions.
func testStatusCopy(t *testing.T) {
	b := newOwner(t, 1)
	b.hear(alice, 1, Draining)
	heard := b.now
	b.wait(time.Second / 2)
	got := b.core.Status()
	want := Status{
		Self:       b.core.self,
		State:      Ready,
		Ring:       []string{"b"},
		Members:    []MemberStatus{{Member: alice, State: Draining, LastHeard: heard, Alive: true}},
		Partitions: []PartitionStatus{{AssignedTo: "b", Phase: "owned", Epoch: 1}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A rolling update waits for an instance to be settled before it stops the next one. So
// an instance is not settled while partitions still move to it.
func testStatusNewcomerSettledLast(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name, cfg.Start, cfg.Partitions = "b", 10, 8
	core, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, core: core}
	b.step(Connected{Session: 1})
	b.hear(alice, 1, Ready)
	for core.state != Ready {
		b.wait(cfg.Spacing)
	}
	if status := core.Status(); status.Settled() {
		t.Errorf("settled as soon as ready: %+v", status)
	}
	claims := only[Claim](b.wait(cfg.Debounce))
	if len(claims) == 0 {
		t.Fatal("no partition is to be the newcomer's")
	}
	for _, claim := range claims {
		if core.Status().Settled() {
			t.Errorf("settled without partition %d", claim.Partition)
		}
		b.win(claim, 1)
	}
	if status := core.Status(); !status.Settled() {
		t.Errorf("not settled: %+v", status)
	}
}

func TestConfig(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"no name":        func(c *Config) { c.Name = "" },
		"no partitions":  func(c *Config) { c.Partitions = 0 },
		"no heartbeat":   func(c *Config) { c.Heartbeat = 0 },
		"no patience":    func(c *Config) { c.SuspectAfter = c.Heartbeat },
		"no debounce":    func(c *Config) { c.Debounce = 0 },
		"rare messages":  func(c *Config) { c.Spacing = c.Heartbeat },
		"a wrong window": func(c *Config) { c.Window = -1 },
		"no members":     func(c *Config) { c.MaxMembers = 0 },
	} {
		cfg := DefaultConfig()
		cfg.Name, cfg.Partitions = "b", 1
		if _, err := New(cfg); err != nil {
			t.Fatal(err)
		}
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A partition cannot skip a phase.
func TestTransition(t *testing.T) {
	for from := idle; from <= handingOver; from++ {
		for to := idle; to <= handingOver; to++ {
			panics := func() (panics bool) {
				b, _ := newBench(t, 1)
				b.core.partitions[0].phase = from
				defer func() { panics = recover() != nil }()
				b.core.transition(0, to)
				return false
			}()
			legal := slices.Contains(allowedNext[from], to) || from == idle && to == idle
			if panics == legal {
				t.Errorf("from %v to %v: panics: %v", from, to, panics)
			}
		}
	}
}
