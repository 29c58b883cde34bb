package ownership

import (
	"testing"
	"time"
)

// newAsker returns a bench whose core asks alice, who holds all partitions under
// epoch 3, for as many as it may ask for at a time.
func newAsker(t *testing.T, partitions int) (b *bench, asked []Lease) {
	b, claims := newBench(t, partitions)
	b.hear(alice, 1, Leaving)
	var refusals []Event
	for _, claim := range claims {
		refusals = append(refusals, ClaimRefused{
			Attempt: claim.Attempt,
			Row:     Row{Lease: Lease{Partition: claim.Partition, Epoch: 3, Holder: alice}},
		})
	}
	b.wait(b.core.cfg.Spacing)
	commands := b.core.Step(b.now, refusals...)
	checkInvariants(t, b.core)
	said := only[Broadcast](commands)
	if len(said) != 1 {
		t.Fatalf("%d messages ask for what %d claims were refused", len(said), len(claims))
	}
	return b, said[0].Message.Wants
}

// grants has alice grant leases.
func (b *bench) grants(seq int64, leases ...Lease) []Command {
	b.t.Helper()
	return b.hear(alice, seq, Leaving, func(m *Message) { m.Granted = leases })
}

func TestWhatIsGrantedIsConsumedWithoutAClaim(t *testing.T) {
	b, _ := newAsker(t, 1)
	got := b.grants(2, Lease{Partition: 0, Epoch: 4, Holder: b.core.self})
	expect(t, only[Consume](got), Consume{Partition: 0, Epoch: 4})
	expect(t, only[Claim](got))
	b.step(Consuming{Partition: 0, Epoch: 4})
	if !b.core.Status().Settled() {
		t.Errorf("%+v", b.core.Status())
	}
}

// Alice may have claimed the partition anew since the epoch table was read.
func TestAGrantOfALaterLeaseCounts(t *testing.T) {
	b, _ := newAsker(t, 1)
	got := b.grants(2, Lease{Partition: 0, Epoch: 9, Holder: b.core.self})
	expect(t, only[Consume](got), Consume{Partition: 0, Epoch: 9})
}

func TestGrantsToOthersAndOfLeasesThatAreOverDoNotCount(t *testing.T) {
	b, _ := newAsker(t, 1)
	older := b.core.self
	older.Incarnation.Session--
	for seq, lease := range []Lease{
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

func TestAGrantThatComesTooLateIsGivenBack(t *testing.T) {
	b, _ := newAsker(t, 1)
	b.step(DrainRequested{})
	granted := Lease{Partition: 0, Epoch: 4, Holder: b.core.self}
	got := append(b.grants(2, granted), b.wait(b.core.cfg.Heartbeat/looksPerHeartbeat)...)
	expect(t, only[Consume](got))
	expect(t, only[Survey](got), Survey{})
	others := Row{Lease: Lease{Partition: 0, Epoch: 4, Holder: alice}}
	expect(t, only[Release](b.step(Surveyed{Rows: []Row{others}})))
	got = b.step(Surveyed{Rows: []Row{{Lease: granted}}})
	expect(t, only[Release](got), Release{Partition: 0, Epoch: 4})
}

// Nobody but somebody who changes the table by hand does that.
func TestAHeldLeaseThatTheTableKnowsOtherwiseIsLost(t *testing.T) {
	for _, row := range []Row{
		{Lease: Lease{Partition: 0, Epoch: 1, Holder: alice}},
		{Lease: Lease{Partition: 0, Epoch: 1}, Released: true},
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
		{Lease: Lease{Partition: 0, Epoch: 1, Holder: b.core.self}},
		{Lease: Lease{Partition: 0}, Released: true}, // from before the claim
	} {
		expect(t, only[Abandon](b.step(Surveyed{Rows: []Row{row}})))
	}
}

// Whoever has waited for long asks the epoch table, which says that the lease is its
// own. Then it wins another one, and the news of the first changes nothing.
func TestAGrantThatWasOvertakenByAClaimIsIgnored(t *testing.T) {
	b, _ := newAsker(t, 1)
	row := Row{Lease: Lease{Partition: 0, Epoch: 4, Holder: b.core.self}}
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
	if phase := b.core.partitions[0].phase; phase != owned {
		t.Errorf("it is %v", phase)
	}
}

// The one who gets the next lease is told so at once, and nobody else is. A program
// that does not know of grants takes it for a release, and finds out by a claim.
func TestWhoAskedIsToldOfTheNextLease(t *testing.T) {
	b := newOwner(t, 2)
	b.core.cfg.Window = 2 * handOverShare
	wishes := []Lease{{Partition: 0, Epoch: 1, Holder: b.core.self}, {Partition: 1, Epoch: 1, Holder: b.core.self}}
	b.hear(alice, 1, Ready, func(m *Message) { m.Wants = wishes })
	got := b.step(DrainRequested{})
	expect(t, only[HandOver](got), HandOver{Partition: 0, Epoch: 1, To: alice}, HandOver{Partition: 1, Epoch: 1, To: alice})
	got = b.core.Step(b.now, HandedOver{Partition: 0, Epoch: 1, To: alice}, HandedOver{Partition: 1, Epoch: 1, To: alice})
	sent := only[Send](got)
	if len(sent) != 1 || sent[0].To != alice {
		t.Fatalf("%+v", got)
	}
	expect(t, sent[0].Message.Granted, Lease{Partition: 0, Epoch: 2, Holder: alice}, Lease{Partition: 1, Epoch: 2, Holder: alice})
	expect(t, sent[0].Message.Released, wishes...)
	for _, said := range only[Broadcast](append(got, b.wait(time.Second)...)) {
		if len(said.Message.Released) > 0 {
			t.Errorf("all are told %+v", said.Message)
		}
	}
}

func TestTheNextHolderIsToldAlsoWhenThePartitionWasLostMeanwhile(t *testing.T) {
	b := newOwner(t, 1)
	wish := Lease{Partition: 0, Epoch: 1, Holder: b.core.self}
	b.hear(alice, 1, Ready, func(m *Message) { m.Wants = []Lease{wish} })
	b.step(DrainRequested{})
	b.step(Lost{Partition: 0, Epoch: 1})
	sent := only[Send](b.step(HandedOver{Partition: 0, Epoch: 1, To: alice}))
	if len(sent) != 1 || sent[0].To != alice {
		t.Errorf("%+v", sent)
	}
}

// A lease that has ended otherwise than by the hand-over is told to all.
func TestWhatCouldNotBeGrantedIsReleased(t *testing.T) {
	b := newOwner(t, 1)
	wish := Lease{Partition: 0, Epoch: 1, Holder: b.core.self}
	b.hear(alice, 1, Ready, func(m *Message) { m.Wants = []Lease{wish} })
	b.step(DrainRequested{})
	got := append(b.step(HandedOver{Partition: 0, Epoch: 1}), b.wait(b.core.cfg.Spacing)...)
	if sent := only[Send](got); len(sent) > 0 {
		t.Errorf("%+v", sent)
	}
	var released []Lease
	for _, said := range only[Broadcast](got) {
		released = append(released, said.Message.Released...)
	}
	expect(t, released, wish)
}

func TestAFewPartitionsAreAskedForAtATime(t *testing.T) {
	b, asked := newAsker(t, 64)
	if len(asked) != leastWindow {
		t.Fatalf("%d are asked for", len(asked))
	}
	granted := asked[0]
	granted.Epoch, granted.Holder = 4, b.core.self
	said := only[Broadcast](append(b.grants(2, granted), b.wait(b.core.cfg.Spacing)...))
	if len(said) != 1 || len(said[0].Message.Wants) != leastWindow || said[0].Message.Wants[0] != asked[1] {
		t.Errorf("after one was granted: %+v", said)
	}
}

// A holder that does not answer does not keep a newcomer from asking others.
func TestEachHolderIsAskedForItsShare(t *testing.T) {
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
			row := Row{Lease: Lease{Partition: claim.Partition, Epoch: 3, Holder: holders[claim.Partition]}}
			refusals = append(refusals, ClaimRefused{Attempt: claim.Attempt, Row: row})
		}
		b.wait(b.core.cfg.Spacing)
		asked, most := make(map[Member]int), 0
		wants := only[Broadcast](b.core.Step(b.now, refusals...))[0].Message.Wants
		for _, lease := range wants {
			asked[lease.Holder]++
			most = max(most, asked[lease.Holder])
		}
		if len(wants) != leastWindow || len(asked) != test.asked || most != test.most {
			t.Errorf("holders of %v: asked for %+v", test.holders, wants)
		}
	}
}

// newAskedOwner is a bench with an instance that owns 64 partitions, of which four others
// ask for four each.
func newAskedOwner(t *testing.T) *bench {
	b := newOwner(t, 64)
	var names []Member
	for n := range int64(4) {
		names = append(names, firstSession(string(rune('p'+n)), n+1))
	}
	for n, who := range names {
		b.hear(who, 1, Ready, func(m *Message) {
			for p := 4 * n; p < 4*n+4; p++ {
				m.Wants = append(m.Wants, Lease{Partition: p, Epoch: 1, Holder: b.core.self})
			}
		})
	}
	b.core.assign = func([]string) []string {
		owners := make([]string, 64)
		for p := range owners {
			owners[p] = names[p/4%4].Name
		}
		return owners
	}
	return b
}

// A request that is not done for long keeps its partition from being handed over, but no
// other.
func TestAHandOverThatTakesLongHoldsUpNoOther(t *testing.T) {
	b := newAskedOwner(t)
	if moving := only[HandOver](b.step(DrainRequested{})); len(moving) != 1 {
		t.Fatalf("%+v are handed over", moving)
	}
	if moving := only[HandOver](b.wait(b.core.cfg.Heartbeat)); len(moving) < 2 {
		t.Errorf("a heartbeat later, %+v are handed over as well", moving)
	}
}

// In the time after a hand-over, requests have the broker and the database for themselves.
func TestAfterAHandOverTheNextOneWaitsForTwiceAsLong(t *testing.T) {
	for _, test := range []struct{ took, rests time.Duration }{
		{5 * time.Millisecond, 10 * time.Millisecond},
		{200 * time.Millisecond, 50 * time.Millisecond},
	} {
		b := newAskedOwner(t)
		first := only[HandOver](b.step(DrainRequested{}))[0]
		b.wait(test.took)
		got := append(b.step(HandedOver{Partition: first.Partition, Epoch: 1, To: first.To}), b.wait(test.rests-1)...)
		if moving := only[HandOver](got); len(moving) > 0 {
			t.Errorf("%v after one that took %v: %+v", test.rests-1, test.took, moving)
		}
		if moving := only[HandOver](b.wait(1)); len(moving) != 1 {
			t.Errorf("%v after one that took %v: %+v", test.rests, test.took, moving)
		}
	}
}

// What waits for its turn is served until then.
func TestAFewPartitionsAreHandedOverAtATime(t *testing.T) {
	b := newAskedOwner(t)
	moving := only[HandOver](b.step(DrainRequested{}))
	for n := 1; len(moving) > 0; n++ {
		if len(moving) > leastWindow/handOverShare {
			t.Fatalf("%d at a time: %+v", len(moving), moving)
		}
		got := b.step(HandedOver{Partition: moving[0].Partition, Epoch: 1, To: moving[0].To})
		moving = append(moving[1:], only[HandOver](got)...)
		if n == 16 && len(moving) == 0 {
			return
		}
	}
	t.Error("not all that were asked for were handed over, one after another")
}
