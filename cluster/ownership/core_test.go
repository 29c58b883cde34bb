package ownership

import (
	"slices"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/ownership/silence"
	"github.com/glotpod/ident/cluster/partition"
)

// A bench has one core, and plays the part of everything around it.
type bench struct {
	t    *testing.T
	core *Core
	now  time.Time
}

// newBench returns a bench with a core named "b" that is ready and alone in the ring. It
// has claimed all partitions, and has no replies yet.
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

// newOwner returns a bench with a core that owns all partitions under epoch 1.
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
	for _, sent := range only[Broadcast](commands) {
		commands = append(commands, b.core.Step(b.now, MessageReceived(sent))...)
	}
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
	for p, part := range c.partitions.states {
		if part.phase != idle {
			busy++
		}
		if part.phase == handingOver {
			moving = append(moving, p)
		}
		if part.phase != idle && !c.state.connected() {
			t.Errorf("partition %d is %v without a session", p, part.phase)
		}
		if m := c.members.byName[part.holder.Name]; part.waitsForHolder() && (m == nil || m.Member != part.holder || !m.isAlive() && m.returns == (silence.Returns{})) {
			t.Errorf("partition %d waits for %v, which is neither alive nor spared", p, part.holder)
		}
	}
	var running []int
	for _, handover := range c.pacing.running {
		running = append(running, handover.partition)
	}
	slices.Sort(running)
	if c.partitions.active != busy || !slices.Equal(running, moving) {
		t.Errorf("%d partitions are active, not %d, and %v are being handed over, not %v", c.partitions.active, busy, running, moving)
	}
	if !slices.IsSorted(c.ring.names) {
		t.Errorf("the ring is not sorted: %v", c.ring.names)
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
	t.Run("not_while_cut_off", testClaimNotWhileCutOff)
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
		expect(t, only[Release](got), Release{Lease: heldLease(0, 5, b.core.self), NotBefore: b.now.Add(partition.DeposedReadsFor)})
		expect(t, only[Consume](got))
	}
}

// A lease won after the ring has changed is released.
func testClaimUnwantedWinReleased(t *testing.T) {
	b, claims := newBench(t, 1)
	b.step(DrainRequested{})
	got := b.step(Claimed{Partition: 0, Attempt: claims[0].Attempt, Epoch: 5})
	expect(t, only[Release](got), Release{Lease: heldLease(0, 5, b.core.self)})
	expect(t, only[Consume](got))
}

// A claim with an unknown outcome is repeated, and finds that it had succeeded. Nothing
// runs under that epoch, so it is deposed.
func testClaimOwnLeaseDeposed(t *testing.T) {
	b, claims := newBench(t, 1)
	b.step(ClaimFailed{Partition: 0, Attempt: claims[0].Attempt})
	again := only[Claim](b.wait(time.Second))
	row := Row{Lease: heldLease(0, 1, b.core.self)}
	got := only[Claim](b.step(ClaimRefused{Attempt: again[0].Attempt, Row: row}))
	expect(t, got, Claim{Partition: 0, Attempt: again[0].Attempt + 1, Depose: 1, Seen: 1, By: b.core.self})
}

// Until the read lease of a deposed holder has certainly ended, nothing is committed under the
// lease that replaces its own, and that lease is not released.
func TestDeposedReads(t *testing.T) {
	t.Run("another_process", testDeposedReadsAnotherProcess)
	t.Run("released_lease", testDeposedReadsReleasedLease)
	t.Run("same_process", testDeposedReadsSameProcess)
	t.Run("unknown_claim", testDeposedReadsUnknownClaim)
	t.Run("release", testDeposedReadsRelease)
}

// depose has the claim refused by a lease, and the next claim succeed, which deposes it.
func (b *bench) depose(claim Claim, lease partition.Lease) []Command {
	b.t.Helper()
	got := only[Claim](b.step(ClaimRefused{Attempt: claim.Attempt, Row: Row{Lease: lease}}))
	if len(got) != 1 || got[0].Depose != lease.Epoch {
		b.t.Fatalf("got %+v, want a claim that deposes epoch %d", got, lease.Epoch)
	}
	return b.step(Claimed{Partition: claim.Partition, Attempt: got[0].Attempt, Epoch: lease.Epoch + 1, Deposed: true})
}

func testDeposedReadsAnotherProcess(t *testing.T) {
	for _, name := range []string{"a", "b"} { // "b" may be an earlier process of this name that is cut off
		b, claims := newBench(t, 1)
		b.step(MemberGone{Member: alice})
		got := b.depose(claims[0], heldLease(0, 3, firstSession(name, 7)))
		expect(t, only[Consume](got), Consume{heldLease(0, 4, b.core.self), b.now.Add(partition.DeposedReadsFor)})
	}
}

func testDeposedReadsReleasedLease(t *testing.T) {
	b, claims := newBench(t, 1)
	got := b.step(Claimed{Partition: 0, Attempt: claims[0].Attempt, Epoch: 4})
	expect(t, only[Consume](got), Consume{Lease: heldLease(0, 4, b.core.self)})
}

// A process that claims its own partition again, in another session, waits no longer than it
// had to wait before, and no less.
func testDeposedReadsSameProcess(t *testing.T) {
	for _, predecessor := range []bool{false, true} {
		b, claims := newBench(t, 1)
		b.step(MemberGone{Member: alice})
		var safe time.Time
		held := heldLease(0, 4, b.core.self)
		if predecessor {
			b.depose(claims[0], heldLease(0, 3, alice))
			safe = b.now.Add(partition.DeposedReadsFor)
		} else {
			b.step(Claimed{Partition: 0, Attempt: claims[0].Attempt, Epoch: 4})
		}
		b.step(Disconnected{})
		b.step(Connected{Session: 2})
		claim := only[Claim](b.wait(b.core.cfg.Debounce))[0]
		got := b.depose(claim, held)
		expect(t, only[Consume](got), Consume{heldLease(0, 5, b.core.self), safe})
	}
}

// The claim of which the outcome is unknown may have been committed at any time.
func testDeposedReadsUnknownClaim(t *testing.T) {
	b, claims := newBench(t, 1)
	b.step(ClaimFailed{Partition: 0, Attempt: claims[0].Attempt})
	again := only[Claim](b.wait(time.Second))[0]
	got := b.depose(again, heldLease(0, 4, b.core.self))
	expect(t, only[Consume](got), Consume{heldLease(0, 5, b.core.self), b.now.Add(partition.DeposedReadsFor)})
}

func testDeposedReadsRelease(t *testing.T) {
	b, claims := newBench(t, 1)
	b.step(MemberGone{Member: alice})
	b.depose(claims[0], heldLease(0, 3, alice))
	safe := b.now.Add(partition.DeposedReadsFor)
	b.wait(100 * time.Millisecond)
	b.step(DrainRequested{})
	got := b.step(LeaseLost{Partition: 0, Epoch: 4})
	expect(t, only[Release](got), Release{heldLease(0, 4, b.core.self), safe})
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
			claim = only[Claim](b.wait(6 * b.core.cfg.Heartbeat))[0]
		}
		outage := b.now.Sub(b.core.partitions.outage.since) > 0
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
		t.Errorf("got %+v, want one claim that deposes no holder", claims)
	}
}

// A message of a holder known from the epoch table alone may be about to arrive. The
// holder is deposed when the broker reports that it is gone, or when it has been silent
// for long.
func testClaimUnknownHolderGetsTime(t *testing.T) {
	for _, certain := range []bool{true, false} {
		b, claims := newBench(t, 1)
		row := Row{Lease: heldLease(0, 3, alice)}
		got := b.step(ClaimRefused{Attempt: claims[0].Attempt, Row: row})
		expect(t, only[Claim](got))
		got = b.wait(heartbeat / checksPerHeartbeat)
		expect(t, only[Probe](got), Probe{Member: alice})
		expect(t, only[Claim](got))
		if certain {
			got = b.step(MemberGone{Member: alice})
		} else {
			got = b.wait(suspectedWithin)
		}
		if deposed := only[Claim](got); len(deposed) != 1 || deposed[0].Depose != 3 {
			t.Errorf("got %+v, want epoch 3 to be deposed", deposed)
		}
	}
}

// Surveys of the epoch table find what no message says.
func TestSurvey(t *testing.T) {
	b := newOwner(t, 2)
	interval := heartbeatsPerSurvey * b.core.cfg.Heartbeat
	if surveys := only[Survey](b.wait(10 * interval)); len(surveys) < 8 || len(surveys) > 11 {
		t.Errorf("%d surveys in ten intervals", len(surveys))
	}
	for len(only[Survey](b.wait(b.core.cfg.Heartbeat))) == 0 { // until no other one is due soon
	}
	b.now = b.now.Add(absentAfter * b.core.cfg.Heartbeat) // this process did not run
	if surveys := only[Survey](b.step(Tick{})); len(surveys) != 1 {
		t.Errorf("%d surveys after time away", len(surveys))
	}
	taken := Row{Lease: heldLease(0, 2, alice)}
	held := Row{Lease: heldLease(1, 1, b.core.self)}
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

// If the database has lost commits, the epoch table may have earlier epochs than those of
// leases. Then all leases are given up, and no epoch that was seen is claimed again.
func TestTableBehind(t *testing.T) {
	b := newOwner(t, 3)
	b.wait(b.core.cfg.Heartbeat)
	behind := Row{Lease: heldLease(0, 0, Member{}), Released: true}
	others := []Row{{Lease: heldLease(1, 1, b.core.self)}, {Lease: heldLease(2, 1, b.core.self)}}
	rows := append([]Row{behind}, others...)

	old := b.step(Surveyed{Rows: rows, AskedAt: b.now.Add(-2 * b.core.cfg.Heartbeat)})
	expect(t, only[Abandon](old)) // read before the claims

	got := b.step(Surveyed{Rows: rows, AskedAt: b.now})
	if reports := only[ReportTableBehind](got); len(reports) != 1 || !slices.Equal(reports[0].Leases, []partition.Lease{heldLease(0, 1, b.core.self)}) {
		t.Errorf("reported: %+v", reports)
	}
	expect(t, only[Abandon](got), Abandon{Partition: 0, Epoch: 1}, Abandon{Partition: 1, Epoch: 1}, Abandon{Partition: 2, Epoch: 1})
	claims := only[Claim](append(got, b.wait(b.core.cfg.Heartbeat)...))
	if len(claims) != 3 {
		t.Fatalf("claims: %+v", claims)
	}
	for _, claim := range claims {
		if claim.Seen != 1 || claim.Depose != 0 {
			t.Errorf("claim %+v", claim)
		}
	}
	// The table names a holder under the epoch that was lost.
	again := b.step(ClaimRefused{Attempt: claims[0].Attempt, Row: Row{Lease: heldLease(0, 4, b.core.self)}})
	if claims := only[Claim](again); len(claims) != 1 || claims[0].Seen != 4 || claims[0].Depose != 4 {
		t.Errorf("claims: %+v", claims)
	}
}

func TestConfig(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"no name":        func(c *Config) { c.Name = "" },
		"no partitions":  func(c *Config) { c.Partitions = 0 },
		"no heartbeat":   func(c *Config) { c.Heartbeat = 0 },
		"no debounce":    func(c *Config) { c.Debounce = 0 },
		"wide spacing":   func(c *Config) { c.Spacing = c.Heartbeat },
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

// suspectedWithin is longer than a member that has never been late may be silent.
const suspectedWithin = 3 * time.Second

// An instance that hears not even itself loses what another one has taken, and claims nothing
// until it hears itself again.
func testClaimNotWhileCutOff(t *testing.T) {
	b := newOwner(t, 1)
	for range 20 {
		b.now = b.core.NextTick()
		b.core.Step(b.now, Tick{}) // what is sent does not come back
	}
	got := b.core.Step(b.now, LeaseLost{Partition: 0, Epoch: 1})
	expect(t, only[Abandon](got), Abandon{Partition: 0, Epoch: 1})
	for range 20 {
		b.now = b.core.NextTick()
		got = append(got, b.core.Step(b.now, Tick{})...)
	}
	expect(t, only[Claim](got))
	if claims := only[Claim](b.wait(3 * b.core.cfg.Heartbeat)); len(claims) != 1 || claims[0].Depose != 0 {
		t.Errorf("got %+v when it hears itself again, want one claim that deposes no holder", claims)
	}
}
