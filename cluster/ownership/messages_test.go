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

func TestMembers(t *testing.T) {
	t.Run("reconnects_if_declared_gone", testMembersReconnectsIfDeclaredGone)
	t.Run("late_messages", testMembersLateMessages)
	t.Run("hostile_messages", testMembersHostileMessages)
	t.Run("another_generation", testMembersAnotherGeneration)
}

// If other members believe that this instance is gone, it starts a new session.
func testMembersReconnectsIfDeclaredGone(t *testing.T) {
	b := newOwner(t, 1)
	self := b.core.self
	got := b.hear(alice, 1, Ready, func(m *Message) { m.Gone = []Member{self} })
	expect(t, only[Abandon](got), Abandon{Partition: 0, Epoch: 1})
	if len(only[Reconnect](got)) != 1 || b.core.state.connected() {
		t.Errorf("got %+v, want a new session", got)
	}
	// A late message about the earlier session has no effect.
	b.step(Connected{Session: 2})
	got = b.hear(alice, 2, Ready, func(m *Message) { m.Gone = []Member{self} })
	expect(t, only[Reconnect](got))
}

// An instance with another generation of partitions is no member, and nothing that it says counts. But
// a newer process of this name does.
func testMembersAnotherGeneration(t *testing.T) {
	b := newOwner(t, 1)
	later := func(m *Message) {
		m.Parameters.First = 64
		m.Gone = []Member{b.core.self}
		m.Wants = []partition.Lease{heldLease(0, 1, b.core.self)}
	}
	expect(t, b.hear(alice, 1, Ready, later))
	b.wait(time.Second)
	expect(t, b.core.ring.names, "b")
	newer := firstSession("b", b.core.self.Incarnation.Start+1)
	if got := only[Stop](b.hear(newer, 1, Joining, later)); len(got) != 1 || got[0].Reason != Superseded {
		t.Errorf("%+v", got)
	}
}

// The newest incarnation of a name counts, and the newest message of an incarnation. A
// member that is gone stays gone, and gets a message about that.
func testMembersLateMessages(t *testing.T) {
	b := newOwner(t, 1)
	newer := firstSession("a", alice.Incarnation.Start+1)
	ring := func(want ...string) {
		t.Helper()
		b.wait(time.Second)
		expect(t, b.core.ring.names, want...)
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
	sent := only[Broadcast](b.wait(time.Second / 2))
	ring("b")
	if !slices.ContainsFunc(sent, func(m Broadcast) bool { return slices.Contains(m.Message.Gone, newer) }) {
		t.Errorf("%v sends, and no message says that it is gone", newer)
	}
}

// No message of another member makes an instance keep more than its settings allow.
func testMembersHostileMessages(t *testing.T) {
	b := newOwner(t, 4)
	var wishes []partition.Lease
	for p := -2; p < 100; p++ {
		wishes = append(wishes, heldLease(p, 1<<40, b.core.self))
	}
	refusals := 0
	for n := range 3 * b.core.cfg.MaxMembers {
		got := b.hear(firstSession(fmt.Sprint("stranger", n), 1), 1, Joining, func(m *Message) {
			m.Wants, m.Granted, m.Released, m.Taken = wishes, wishes, wishes[:2], wishes[:2]
		})
		refusals += len(only[ReportRefusal](got))
	}
	if len(b.core.members.byName) != b.core.cfg.MaxMembers || refusals != 1 {
		t.Errorf("%d members are kept, %d refused", len(b.core.members.byName), refusals)
	}
	for name, m := range b.core.members.byName {
		if len(m.wants) > b.core.cfg.Window {
			t.Errorf("%d wishes of %s are kept", len(m.wants), name)
		}
	}
	b.wait(3 * time.Minute)
	if len(b.core.members.byName) != 0 {
		t.Errorf("%d members are kept after a long silence", len(b.core.members.byName))
	}
}

// Whatever events come, in whatever order, the core neither panics nor violates its
// invariants.
func TestAnyEvents(t *testing.T) {
	for seed := range uint64(150) {
		random := rand.New(rand.NewPCG(seed, 0))
		b, _ := newBench(t, 3)
		member := func() Member {
			names := []string{"a", "b", "c", "d"}
			return Member{
				Name:        names[random.IntN(len(names))],
				Incarnation: Incarnation{Start: 8 + random.Int64N(3), Session: 1 + random.Int64N(3)},
			}
		}
		part := func() int { return random.IntN(3) }
		epoch := func() int64 { return random.Int64N(6) }
		attempt := func() uint64 { return b.core.partitions.lastAttempt - random.Uint64N(3) }
		leases := func() (leases []partition.Lease) {
			for range random.IntN(3) {
				leases = append(leases, heldLease(part(), epoch(), member()))
			}
			return leases
		}
		row := func() Row {
			return Row{Lease: heldLease(part(), epoch(), member()), Released: random.IntN(3) == 0}
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
				b.hear(member(), random.Int64N(100), State(random.IntN(6)), func(m *Message) {
					m.Wants, m.Released, m.Taken = leases(), leases(), leases()
				})
			case 4:
				b.step(MemberGone{Member: member()})
			case 5, 6:
				b.step(Claimed{Partition: part(), Attempt: attempt(), Epoch: epoch()})
			case 7:
				b.step(ClaimRefused{Attempt: attempt(), Row: row()})
			case 8:
				b.step(ClaimFailed{Partition: part(), Attempt: attempt()})
			case 9, 10:
				p := part()
				b.step(Consuming{Partition: p, Epoch: b.core.partitions.states[p].epoch})
			case 11:
				p := part()
				b.step(LeaseLost{Partition: p, Epoch: b.core.partitions.states[p].epoch})
			case 12:
				p := part()
				b.step(HandedOver{Partition: p, Epoch: b.core.partitions.states[p].epoch})
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

func TestOutbox(t *testing.T) {
	t.Run("send_time", testOutboxSendTime)
	t.Run("facts_sent_once", testOutboxFactsSentOnce)
	t.Run("grants_by_member", testOutboxGrantsByMember)
}

// A request to send may bring the next broadcast forward, and never puts it off.
func testOutboxSendTime(t *testing.T) {
	const spacing = 5 * time.Millisecond
	now := time.Unix(100, 0)
	for name, test := range map[string]struct {
		sinceSent, wait, due, want time.Duration
	}{
		"at once":              {time.Second, 0, time.Minute, 0},
		"after a delay":        {time.Second, 20 * time.Millisecond, time.Minute, 20 * time.Millisecond},
		"spacing":              {2 * time.Millisecond, 0, time.Minute, 3 * time.Millisecond},
		"spacing and a delay":  {2 * time.Millisecond, time.Millisecond, time.Minute, 3 * time.Millisecond},
		"due earlier than so":  {time.Second, 20 * time.Millisecond, 10 * time.Millisecond, 10 * time.Millisecond},
		"due while it is sent": {time.Second, 0, 0, 0},
	} {
		o := outbox{cfg: &Config{Spacing: spacing}, sentAt: now.Add(-test.sinceSent), sendAt: now.Add(test.due)}
		o.sendWithin(now, test.wait)
		if got := o.sendAt.Sub(now); got != test.want {
			t.Errorf("%s: due in %v, want %v", name, got, test.want)
		}
		if o.isDue(now) != (test.want == 0) || !o.isDue(now.Add(test.want)) {
			t.Errorf("%s: is due at the wrong time", name)
		}
	}
}

func testOutboxFactsSentOnce(t *testing.T) {
	now := time.Unix(100, 0)
	facts := Message{Released: []partition.Lease{heldLease(1, 2, alice)}, Taken: []partition.Lease{heldLease(3, 4, alice)}, Gone: []Member{carol}}
	o := outbox{facts: facts}
	var msg Message
	o.takeFacts(&msg, now, now.Add(time.Second))
	if !reflect.DeepEqual(msg, facts) {
		t.Errorf("got %+v, want %+v", msg, facts)
	}
	if !o.sentAt.Equal(now) || o.isDue(now) || !o.isDue(now.Add(time.Second)) {
		t.Errorf("sent at %v, due at %v", o.sentAt, o.sendAt)
	}
	var next Message
	if o.takeFacts(&next, now, now); !reflect.DeepEqual(next, Message{}) {
		t.Errorf("facts are sent twice: %+v", next)
	}
	if first, second := o.nextSeq(), o.nextSeq(); first != 1 || second != 2 {
		t.Errorf("messages have the numbers %d and %d", first, second)
	}
}

// All grants to a member go into one message, together with the leases that they
// replace.
func testOutboxGrantsByMember(t *testing.T) {
	self := firstSession("b", 1)
	o := outbox{grants: []partition.Lease{heldLease(0, 4, alice), heldLease(1, 5, carol), heldLease(2, 6, alice)}}
	for _, want := range []struct {
		to                Member
		granted, released []partition.Lease
	}{
		{alice, []partition.Lease{heldLease(0, 4, alice), heldLease(2, 6, alice)}, []partition.Lease{heldLease(0, 3, self), heldLease(2, 5, self)}},
		{carol, []partition.Lease{heldLease(1, 5, carol)}, []partition.Lease{heldLease(1, 4, self)}},
	} {
		to, ok := o.nextGrantee()
		msg := Message{From: self}
		o.takeGrants(&msg, to)
		if !ok || to != want.to {
			t.Errorf("grants go to %v, want %v", to, want.to)
		}
		expect(t, msg.Granted, want.granted...)
		expect(t, msg.Released, want.released...)
	}
	if to, ok := o.nextGrantee(); ok {
		t.Errorf("further grants go to %v", to)
	}
}
