package ownership

import (
	"slices"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// A partition cannot skip a phase.
func TestTransition(t *testing.T) {
	for from := idle; from <= handingOver; from++ {
		for to := idle; to <= handingOver; to++ {
			panics := func() (panics bool) {
				b, _ := newBench(t, 1)
				b.core.partitions.states[0].phase = from
				defer func() { panics = recover() != nil }()
				b.core.partitions.transition(0, to)
				return false
			}()
			legal := slices.Contains(allowedNext[from], to) || from == to && to <= waiting
			if panics == legal {
				t.Errorf("from %v to %v: panics: %v", from, to, panics)
			}
		}
	}
}

func TestPartition(t *testing.T) {
	t.Run("backoff", testPartitionBackoff)
	t.Run("current_attempt", testPartitionCurrentAttempt)
	t.Run("contradicts", testPartitionContradicts)
}

// The delay doubles with each failure up to four heartbeats, or to twenty if the consumer could
// not start, until the partition was served for four heartbeats.
func testPartitionBackoff(t *testing.T) {
	start := time.Unix(100, 0)
	s := partitionState{phase: claiming, since: start}
	for n, want := range []time.Duration{250, 500, 1000, 2000, 2000} {
		if got := s.backoff(start, heartbeat); got != want*time.Millisecond {
			t.Errorf("failure %d: %v", n+1, got)
		}
	}
	s.phase = owned
	if got := s.backoff(start.Add(2*time.Second-1), heartbeat); got != 2*time.Second {
		t.Errorf("after a short service: %v", got)
	}
	if got := s.backoff(start.Add(2*time.Second), heartbeat); got != 0 {
		t.Errorf("after a long service: %v", got)
	}
	s.phase = starting
	for n, want := range []time.Duration{250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000} {
		if got := s.backoff(start, heartbeat); got != want*time.Millisecond {
			t.Errorf("after a long service, failure %d to start: %v", n+1, got)
		}
	}
}

func testPartitionCurrentAttempt(t *testing.T) {
	for f := idle; f <= handingOver; f++ {
		s := partitionState{phase: f, attempt: 7, epoch: 3, holder: alice}
		if got := s.isCurrentAttempt(7); got != (f == claiming) || s.isCurrentAttempt(6) {
			t.Errorf("%v: the attempt is current: %v", f, got)
		}
		if got := s.waitsForHolder(); got != (f == waiting) {
			t.Errorf("%v: waits for its holder: %v", f, got)
		}
		if got := s.hasLease(3); got != (f >= starting) || s.hasLease(4) {
			t.Errorf("%v: has the lease: %v", f, got)
		}
	}
}

// A row of the lease's epoch has to name this instance, unless a hand-over may have
// changed it.
func testPartitionContradicts(t *testing.T) {
	self := firstSession("b", 10)
	for f := idle; f <= handingOver; f++ {
		s := partitionState{phase: f, epoch: 3}
		served := f == starting || f == owned
		for _, test := range []struct {
			row  Row
			want bool
		}{
			{Row{Lease: heldLease(0, 3, self)}, false},
			{Row{Lease: heldLease(0, 3, alice)}, served},
			{Row{Lease: heldLease(0, 3, self), Released: true}, served},
			{Row{Lease: heldLease(0, 2, alice)}, false},
			{Row{Lease: heldLease(0, 4, alice)}, false},
		} {
			if got := s.contradicts(&test.row, self); got != test.want {
				t.Errorf("%v, %+v: %v", f, test.row, got)
			}
		}
	}
}

func TestWantedLeases(t *testing.T) {
	for name, test := range map[string]struct {
		holders []Member // of each partition; zero: the partition does not wait for a holder
		want    []int    // partitions
		more    bool
	}{
		"none":          {[]Member{{}, {}}, nil, false},
		"all":           {[]Member{alice, {}, carol}, []int{0, 2}, false},
		"window":        {[]Member{alice, alice, alice, alice, alice}, []int{0, 1, 2, 3}, true},
		"equal shares":  {[]Member{alice, alice, alice, alice, carol}, []int{0, 1, 4}, true},
		"shares filled": {[]Member{carol, carol, alice, alice, {}}, []int{0, 1, 2, 3}, false},
	} {
		states := make([]partitionState, len(test.holders))
		for p, holder := range test.holders {
			states[p] = partitionState{phase: waiting, epoch: int64(p) + 10, holder: holder}
		}
		got, more := wantedLeases(states, 4)
		var want []partition.Lease
		for _, p := range test.want {
			want = append(want, heldLease(p, int64(p)+10, test.holders[p]))
		}
		expect(t, got, want...)
		if more != test.more {
			t.Errorf("%s: there are more: %v", name, more)
		}
	}
}

func TestOutage(t *testing.T) {
	start := time.Unix(100, 0)
	for name, test := range map[string]struct {
		failures []time.Duration // since start
		reply    time.Duration
		want     bool
	}{
		"no failure":       {nil, time.Minute, false},
		"short":            {[]time.Duration{0}, time.Second - 1, false},
		"long":             {[]time.Duration{0}, time.Second, true},
		"first one counts": {[]time.Duration{0, 900 * time.Millisecond}, time.Second, true},
	} {
		var o outage
		for _, failure := range test.failures {
			o.onFailure(start.Add(failure))
		}
		reply := start.Add(test.reply)
		if got := o.onReply(reply, time.Second); got != test.want {
			t.Errorf("%s: an outage ends: %v", name, got)
		}
		if o.onReply(reply.Add(time.Hour), time.Second) {
			t.Errorf("%s: an outage ends twice", name)
		}
	}
}

// An instance that does not hear itself, or has not yet, claims nothing. It does when it does.
func TestCutOff(t *testing.T) {
	for name, test := range map[string]Event{
		"held_lease_released": MessageReceived{Message: Message{From: alice, Seq: 2, State: Leaving, Released: []partition.Lease{heldLease(0, 3, alice)}}},
		"row_released":        Surveyed{Rows: []Row{{Lease: heldLease(0, 3, alice), Released: true}}},
		"row_of_a_later_one":  Surveyed{Rows: []Row{{Lease: heldLease(0, 4, carol)}}},
		"holder_gone":         MemberGone{Member: alice},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := newAsker(t, 1)
			if m, ok := test.(MessageReceived); ok {
				m.Message.Parameters = b.core.cfg.parameters()
				test = m
			}
			b.now = b.now.Add(10 * b.core.cfg.Heartbeat)
			commands := b.core.Step(b.now, test, Tick{})
			sent := only[Broadcast](commands)
			if got := only[Claim](commands); len(got) > 0 || len(sent) == 0 {
				t.Fatalf("claimed %+v without hearing itself, with %d messages", got, len(sent))
			}
			if got := only[Claim](b.core.Step(b.now, MessageReceived(sent[0]))); len(got) != 1 {
				t.Errorf("claimed %+v when it heard itself", got)
			}
			checkInvariants(t, b.core)
		})
	}
	t.Run("nothing_heard_yet", testCutOffNothingHeardYet)
}

func testCutOffNothingHeardYet(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name, cfg.Start, cfg.Partitions = "b", 10, 1
	core, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	sent := only[Broadcast](core.Step(now, Connected{Session: 1}))
	for range 50 {
		now = now.Add(cfg.Heartbeat)
		if got := only[Claim](core.Step(now, Tick{})); len(got) > 0 || core.Status().State != Joining {
			t.Fatalf("%v, and claimed %+v", core.Status().State, got)
		}
		if wake := core.NextTick(); !wake.After(now) {
			t.Fatalf("the next tick is due at %v, now it is %v", wake, now)
		}
	}
	if got := only[Claim](core.Step(now, MessageReceived(sent[0]))); len(got) != 1 || core.Status().State != Ready {
		t.Errorf("%v, and claimed %+v when it heard itself", core.Status().State, got)
	}
}

// A member that takes back what was taken from it is deposed again once, and then spared.
func TestSpared(t *testing.T) {
	t.Run("member_that_returns", testSparedMemberThatReturns)
	t.Run("member_whose_lease_is_not_served_here", testSparedMemberWhoseLeaseIsNotServedHere)
}

// returns has the lease of a partition lost to alice, and returns the claim that follows.
func (b *bench) returns(epoch int64) Claim {
	b.t.Helper()
	b.step(Consuming{Partition: 0, Epoch: epoch})
	b.step(LeaseLost{Partition: 0, Epoch: epoch})
	claims := only[Claim](b.wait(5 * time.Second))
	if len(claims) != 1 {
		b.t.Fatalf("claimed %+v", claims)
	}
	return claims[0]
}

func testSparedMemberThatReturns(t *testing.T) {
	b, claims := newBench(t, 1)
	b.step(MemberGone{Member: alice})
	b.depose(claims[0], heldLease(0, 3, alice))
	b.depose(b.returns(4), heldLease(0, 5, alice))
	row := Row{Lease: heldLease(0, 7, alice)}
	claims = only[Claim](b.step(ClaimRefused{Attempt: b.returns(6).Attempt, Row: row}))
	for since := b.now; b.now.Sub(since) < 2*time.Second; {
		for _, claim := range claims {
			if claim.Depose != 0 {
				t.Errorf("deposed after %v", b.now.Sub(since))
			}
			b.step(ClaimRefused{Attempt: claim.Attempt, Row: row})
		}
		claims = only[Claim](b.wait(b.core.cfg.Heartbeat / 4))
	}
	if claims = append(claims, only[Claim](b.wait(b.core.cfg.Heartbeat))...); len(claims) == 0 || claims[0].Depose != 7 {
		t.Errorf("claimed %+v after two seconds", claims)
	}
}

// If the consumer of a lease does not start for which a member was deposed, that member gets the
// time to claim the partition.
func testSparedMemberWhoseLeaseIsNotServedHere(t *testing.T) {
	for name, fail := range map[string]func(b *bench) []Command{
		"refused": func(b *bench) []Command { return b.step(LeaseLost{Partition: 0, Epoch: 4}) },
		"hanging": func(b *bench) []Command { return b.wait((startFor + 1) * b.core.cfg.Heartbeat) },
	} {
		t.Run(name, func(t *testing.T) {
			b, claims := newBench(t, 1)
			b.step(MemberGone{Member: alice})
			b.depose(claims[0], heldLease(0, 3, alice))
			got := fail(b)
			expect(t, only[Abandon](got), Abandon{Partition: 0, Epoch: 4})
			if released := only[Release](got); len(released) != 1 || released[0].Lease != heldLease(0, 4, b.core.self) {
				t.Errorf("released %+v", released)
			}
			expect(t, only[Claim](b.wait(time.Second)))
			for spared := time.Duration(0); spared < 59*time.Second; { // alice takes it back
				for _, claim := range only[Claim](b.wait(time.Second)) {
					got := only[Claim](b.step(ClaimRefused{Attempt: claim.Attempt, Row: Row{Lease: heldLease(0, 5, alice)}}))
					if claim.Depose != 0 || len(got) > 0 {
						t.Fatalf("spared for %v: %+v, then %+v", spared, claim, got)
					}
				}
				spared += time.Second
			}
		})
	}
}
