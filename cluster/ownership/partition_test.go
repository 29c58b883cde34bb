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
			legal := slices.Contains(allowedNext[from], to) || from == idle && to == idle
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
