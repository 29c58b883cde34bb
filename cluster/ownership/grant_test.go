package ownership

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/ownership/hashring"
	"github.com/glotpod/ident/cluster/partition"
)

// newAsker returns a bench with a core that asks alice, the holder of all partitions under
// epoch 3, for as many partitions as it may ask for at a time.
func newAsker(t *testing.T, partitions int) (b *bench, asked []partition.Lease) {
	b, claims := newBench(t, partitions)
	b.hear(alice, 1, Leaving)
	var refusals []Event
	for _, claim := range claims {
		refusals = append(refusals, ClaimRefused{
			Attempt: claim.Attempt,
			Row:     Row{Lease: heldLease(claim.Partition, 3, alice)},
		})
	}
	b.wait(b.core.cfg.Spacing)
	commands := b.core.Step(b.now, refusals...)
	checkInvariants(t, b.core)
	sent := only[Broadcast](commands)
	if len(sent) != 1 {
		t.Fatalf("%d messages after %d refused claims", len(sent), len(claims))
	}
	return b, sent[0].Message.Wants
}

// grants delivers a message in which alice grants leases.
func (b *bench) grants(seq int64, leases ...partition.Lease) []Command {
	b.t.Helper()
	return b.hear(alice, seq, Leaving, func(m *Message) { m.Granted = leases })
}

func TestGrant(t *testing.T) {
	t.Run("consumed_without_claim", testGrantConsumedWithoutClaim)
	t.Run("later_epoch_counts", testGrantLaterEpochCounts)
	t.Run("others_and_ended_ignored", testGrantOthersAndEndedIgnored)
	t.Run("too_late_released", testGrantTooLateReleased)
	t.Run("table_differs", testGrantTableDiffers)
	t.Run("overtaken_by_claim", testGrantOvertakenByClaim)
	t.Run("new_holder_told", testGrantNewHolderTold)
	t.Run("told_after_loss", testGrantToldAfterLoss)
	t.Run("ungranted_released", testGrantUngrantedReleased)
}

func testGrantConsumedWithoutClaim(t *testing.T) {
	b, _ := newAsker(t, 1)
	got := b.grants(2, heldLease(0, 4, b.core.self))
	expect(t, only[Consume](got), Consume{Lease: heldLease(0, 4, b.core.self)})
	expect(t, only[Claim](got))
	b.step(Consuming{Partition: 0, Epoch: 4})
	if !b.core.Status().Settled() {
		t.Errorf("%+v", b.core.Status())
	}
}

// Alice may have claimed the partition again since the core read the epoch table.
func testGrantLaterEpochCounts(t *testing.T) {
	b, _ := newAsker(t, 1)
	got := b.grants(2, heldLease(0, 9, b.core.self))
	expect(t, only[Consume](got), Consume{Lease: heldLease(0, 9, b.core.self)})
}

func testGrantOthersAndEndedIgnored(t *testing.T) {
	b, _ := newAsker(t, 1)
	older := b.core.self
	older.Incarnation.Session--
	for seq, lease := range []partition.Lease{
		{Partition: 0, Epoch: 4, Holder: carol},
		{Partition: 0, Epoch: 4, Holder: older},
		{Partition: 0, Epoch: 3, Holder: b.core.self},
		{Partition: 7, Epoch: 4, Holder: b.core.self},
	} {
		if got := only[Consume](b.grants(int64(seq)+2, lease)); len(got) > 0 {
			t.Errorf("%+v: %+v", lease, got)
		}
	}
}

func testGrantTooLateReleased(t *testing.T) {
	b, _ := newAsker(t, 1)
	b.step(DrainRequested{})
	granted := heldLease(0, 4, b.core.self)
	got := append(b.grants(2, granted), b.wait(b.core.cfg.Heartbeat/checksPerHeartbeat)...)
	expect(t, only[Consume](got))
	expect(t, only[Survey](got), Survey{})
	others := Row{Lease: heldLease(0, 4, alice)}
	expect(t, only[Release](b.step(Surveyed{Rows: []Row{others}})))
	got = b.step(Surveyed{Rows: []Row{{Lease: granted}}})
	expect(t, only[Release](got), Release{heldLease(0, 4, b.core.self), b.now.Add(partition.DeposedReadsFor)})
}

// This happens only if the table is changed by hand.
func testGrantTableDiffers(t *testing.T) {
	for _, row := range []Row{
		{Lease: heldLease(0, 1, alice)},
		{Lease: partition.Lease{Partition: 0, Epoch: 1}, Released: true},
	} {
		b := newOwner(t, 1)
		if row.Released {
			row.Holder = b.core.self
		}
		got := b.step(Surveyed{Rows: []Row{row}})
		expect(t, only[Abandon](got), Abandon{Partition: 0, Epoch: 1})
	}
	b := newOwner(t, 1)
	for _, row := range []Row{
		{Lease: heldLease(0, 1, b.core.self)},
		{Lease: partition.Lease{Partition: 0}, Released: true}, // from before the claim
	} {
		expect(t, only[Abandon](b.step(Surveyed{Rows: []Row{row}})))
	}
}

// A member that has waited for long asks the epoch table, which says that the lease is
// its own. It then wins another lease, and the late message about the first has no
// effect.
func testGrantOvertakenByClaim(t *testing.T) {
	b, _ := newAsker(t, 1)
	row := Row{Lease: heldLease(0, 4, b.core.self)}
	claims := only[Claim](b.step(Surveyed{Rows: []Row{row}}))
	if len(claims) != 1 {
		t.Fatalf("%+v", claims)
	}
	granted := row.Lease
	expect(t, only[Consume](b.grants(2, granted)))
	deposing := only[Claim](b.step(ClaimRefused{Attempt: claims[0].Attempt, Row: row}))
	if len(deposing) != 1 || deposing[0].Depose != 4 {
		t.Fatalf("%+v", deposing)
	}
	expect(t, only[Consume](b.grants(3, granted)))
	b.win(deposing[0], 5)
	got := b.grants(4, granted)
	expect(t, only[Consume](got))
	expect(t, only[Release](got))
	if phase := b.core.partitions.states[0].phase; phase != owned {
		t.Errorf("the phase is %v", phase)
	}
}

// Only the new holder gets a message about its lease, at once. A program
// that does not know of grants takes the message as a release, and finds its lease by a
// claim.
func testGrantNewHolderTold(t *testing.T) {
	b := newOwner(t, 2)
	b.core.cfg.Window = 2 * handoverShare
	wishes := []partition.Lease{{Partition: 0, Epoch: 1, Holder: b.core.self}, {Partition: 1, Epoch: 1, Holder: b.core.self}}
	b.hear(alice, 1, Ready, func(m *Message) { m.Wants = wishes })
	got := b.step(DrainRequested{})
	expect(t, only[HandOver](got), HandOver{Lease: heldLease(0, 1, b.core.self), To: alice}, HandOver{Lease: heldLease(1, 1, b.core.self), To: alice})
	got = b.core.Step(b.now, HandedOver{Partition: 0, Epoch: 1, To: alice}, HandedOver{Partition: 1, Epoch: 1, To: alice})
	sent := only[Send](got)
	if len(sent) != 1 || sent[0].To != alice {
		t.Fatalf("%+v", got)
	}
	if next := sent[0].Message.Next; next < b.core.cfg.Heartbeat {
		t.Errorf("the next message is due after %v, so this instance is soon suspected", next)
	}
	expect(t, sent[0].Message.Granted, heldLease(0, 2, alice), heldLease(1, 2, alice))
	expect(t, sent[0].Message.Released, wishes...)
	for _, sent := range only[Broadcast](append(got, b.wait(time.Second)...)) {
		if len(sent.Message.Released) > 0 {
			t.Errorf("broadcast: %+v", sent.Message)
		}
	}
}

func testGrantToldAfterLoss(t *testing.T) {
	b := newOwner(t, 1)
	wish := heldLease(0, 1, b.core.self)
	b.hear(alice, 1, Ready, func(m *Message) { m.Wants = []partition.Lease{wish} })
	b.step(DrainRequested{})
	b.step(LeaseLost{Partition: 0, Epoch: 1})
	sent := only[Send](b.step(HandedOver{Partition: 0, Epoch: 1, To: alice}))
	if len(sent) != 1 || sent[0].To != alice {
		t.Errorf("%+v", sent)
	}
}

// A lease that ended in another way than by a grant is announced to all members.
func testGrantUngrantedReleased(t *testing.T) {
	b := newOwner(t, 1)
	wish := heldLease(0, 1, b.core.self)
	b.hear(alice, 1, Ready, func(m *Message) { m.Wants = []partition.Lease{wish} })
	b.step(DrainRequested{})
	got := append(b.step(HandedOver{Partition: 0, Epoch: 1}), b.wait(b.core.cfg.Spacing)...)
	if sent := only[Send](got); len(sent) > 0 {
		t.Errorf("%+v", sent)
	}
	var released []partition.Lease
	for _, sent := range only[Broadcast](got) {
		released = append(released, sent.Message.Released...)
	}
	expect(t, released, wish)
}

func TestWishes(t *testing.T) {
	t.Run("few_at_a_time", testWishesFewAtATime)
	t.Run("share_per_holder", testWishesSharePerHolder)
}

func testWishesFewAtATime(t *testing.T) {
	b, asked := newAsker(t, 64)
	if len(asked) != minWindow {
		t.Fatalf("%d partitions are asked for", len(asked))
	}
	granted := asked[0]
	granted.Epoch, granted.Holder = 4, b.core.self
	sent := only[Broadcast](append(b.grants(2, granted), b.wait(b.core.cfg.Spacing)...))
	if len(sent) != 1 || len(sent[0].Message.Wants) != minWindow || sent[0].Message.Wants[0] != asked[1] {
		t.Errorf("after one was granted: %+v", sent)
	}
}

// A holder that does not respond does not keep a new member from asking the others.
func testWishesSharePerHolder(t *testing.T) {
	for _, test := range []struct {
		holders     []int // of so many partitions each
		asked, most int   // holders, and partitions of one
	}{
		{[]int{6, 2}, 2, 2},
		{[]int{8}, 1, 4},
		{[]int{1, 1, 6}, 3, 2},
		{[]int{2, 2, 2, 2, 2, 2}, 4, 1},
	} {
		var holders []Member // of each partition
		for n, partitions := range test.holders {
			for range partitions {
				holders = append(holders, firstSession(string(rune('p'+n)), 1))
			}
		}
		b, claims := newBench(t, len(holders))
		var refusals []Event
		for _, claim := range claims {
			row := Row{Lease: heldLease(claim.Partition, 3, holders[claim.Partition])}
			refusals = append(refusals, ClaimRefused{Attempt: claim.Attempt, Row: row})
		}
		b.wait(b.core.cfg.Spacing)
		asked, most := make(map[Member]int), 0
		wants := only[Broadcast](b.core.Step(b.now, refusals...))[0].Message.Wants
		for _, lease := range wants {
			asked[lease.Holder]++
			most = max(most, asked[lease.Holder])
		}
		if len(wants) != minWindow || len(asked) != test.asked || most != test.most {
			t.Errorf("holders of %v: asked for %+v", test.holders, wants)
		}
	}
}

// newAskedOwner returns a bench with a core that owns all partitions. Other members ask
// for as many as they may.
func newAskedOwner(t *testing.T, partitions int) *bench {
	b := newOwner(t, partitions)
	window := b.core.cfg.Window
	owners := make([]string, partitions)
	for n := range partitions / window {
		asker := firstSession(fmt.Sprintf("p%02d", n), 1)
		b.hear(asker, 1, Ready, func(m *Message) {
			m.Next = time.Hour
			for p := window * n; p < window*(n+1); p++ {
				owners[p] = asker.Name
				m.Wants = append(m.Wants, heldLease(p, 1, b.core.self))
			}
		})
	}
	b.core.cfg.Assign = func([]hashring.Member) []string { return owners }
	return b
}

// handOvers lets the instance drain, and returns the time at which each hand-over
// begins, if each takes as long as takes returns.
func (b *bench) handOvers(until time.Duration, takes func(n int) time.Duration) (begun []time.Duration) {
	b.t.Helper()
	type handingOver struct {
		HandOver
		end time.Time
	}
	var all []handingOver
	start, commands := b.now, b.step(DrainRequested{})
	for {
		for _, command := range only[HandOver](commands) {
			all = append(all, handingOver{command, b.now.Add(takes(len(begun)))})
			begun = append(begun, b.now.Sub(start))
		}
		slices.SortStableFunc(all, func(x, y handingOver) int { return x.end.Compare(y.end) })
		var event Event = Tick{}
		at := b.core.NextTick()
		if len(all) > 0 && !all[0].end.After(at) {
			at, event = all[0].end, HandedOver{Partition: all[0].Partition, Epoch: all[0].Epoch, To: all[0].To}
			all = all[1:]
		}
		if at.Sub(start) > until {
			return begun
		}
		b.now = at
		commands = b.step(event)
	}
}

func TestPacing(t *testing.T) {
	t.Run("rests", testPacingRests)
	t.Run("ten_seconds_in_all", testPacingTenSecondsInAll)
}

func testPacingRests(t *testing.T) {
	const forever = time.Hour
	for name, test := range map[string]struct {
		partitions int
		take       []int // in milliseconds, as all here; the last one is that of all that follow
		until      int
		want       []int // when they begin
	}{
		"one after another":                   {64, []int{5}, 100, []int{0, 15, 30, 45, 60, 75, 90}},
		"a rest is no longer than 50 ms":      {64, []int{30}, 300, []int{0, 80, 160, 240}},
		"a slow one holds up no other":        {64, []int{-1, 5}, 100, []int{0, 50, 65, 80, 95}},
		"but a window is never exceeded":      {64, []int{-1}, 2000, []int{0, 50, 100, 150}},
		"nor is it while some are complete":   {64, []int{250, -1}, 2000, []int{0, 50, 100, 150, 300}},
		"the longer rest counts":              {64, []int{60, 11, 5}, 130, []int{0, 50, 110, 125}},
		"of many partitions, a few at a time": {128, []int{5}, 40, []int{0, 0, 15, 15, 30, 30}},
		"also of some more than 64":           {100, []int{5}, 40, []int{0, 0, 15, 15, 30, 30}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newAskedOwner(t, test.partitions)
			begun := b.handOvers(time.Duration(test.until)*time.Millisecond, func(n int) time.Duration {
				took := test.take[min(n, len(test.take)-1)]
				if took < 0 {
					return forever
				}
				return time.Duration(took) * time.Millisecond
			})
			var got []int
			for _, at := range begun {
				got = append(got, int(at.Milliseconds()))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("they begin at %v ms, want %v", got, test.want)
			}
		})
	}
}

// An instance that is asked to stop has shutdown.grace for that, 25 s by default.
func testPacingTenSecondsInAll(t *testing.T) {
	for _, partitions := range []int{64, 127, 1024} {
		for _, took := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond} {
			b := newAskedOwner(t, partitions)
			begun := b.handOvers(time.Minute, func(int) time.Duration { return took })
			asked := partitions / b.core.cfg.Window * b.core.cfg.Window
			if len(begun) < asked || begun[asked-1] > 10*time.Second {
				t.Errorf("%d partitions, each of which takes %v: of %d that are asked for, %d are handed over by %v",
					partitions, took, asked, len(begun), begun[len(begun)-1])
			}
		}
	}
}
