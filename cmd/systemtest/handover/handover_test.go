package handover

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

const ms = time.Millisecond

// calmShots are requests to so many partitions every 10 ms, each with a reply after 2 ms.
func calmShots(partitions int, end time.Duration) (shots []shot) {
	for due := time.Duration(0); due < end; due += 10 * ms {
		for p := range partitions {
			shots = append(shots, shot{partition: p, due: due, took: 2 * ms, answered: true})
		}
	}
	return shots
}

// hold delays all replies of a partition from one time to another.
func hold(shots []shot, partition int, from, to time.Duration) {
	for i := range shots {
		if x := &shots[i]; x.partition == partition && from <= x.due+x.took && x.due < to {
			x.took = to - x.due
		}
	}
}

func ownersNamed(names string) (owners []harness.Lease) {
	for name := range strings.FieldsSeq(names) {
		owners = append(owners, harness.Lease{Holder: name, Epoch: 1})
	}
	return owners
}

func TestSummary(t *testing.T) {
	t.Parallel()
	t.Run("pauses", testSummaryPauses)
	t.Run("request_under_way", testSummaryRequestUnderWay)
	t.Run("other_partitions", testSummaryOtherPartitions)
	t.Run("rounds", testSummaryRounds)
	t.Run("percentile", testSummaryPercentile)
	t.Run("owners", testSummaryOwners)
}

func testSummaryPauses(t *testing.T) {
	o := &observation{
		shots: calmShots(4, 2*time.Second), warm: 100 * ms, event: time.Second, subject: "c", ideal: 1,
		before: ownersNamed("a a b b"), after: ownersNamed("c a b b"),
	}
	hold(o.shots, 0, 1100*ms, 1400*ms)
	var s handOverSummary
	s.add(o)
	// The request of 1100 ms waits for all of it.
	if want := []time.Duration{298 * ms}; !slices.Equal(s.pauses, want) {
		t.Errorf("the pauses are %v, want %v", s.pauses, want)
	}
	if s.moved != 1 || s.ideal != 1 || s.excess != 0 || s.claimed != 0 {
		t.Errorf("%d moved of %d, %d too many; %d claimed", s.moved, s.ideal, s.excess, s.claimed)
	}
	if s.failures() != 0 || s.elsewhereSlow != 0 || s.slowest != 2*ms || s.usualSlow != 0 {
		t.Errorf("others noticed: %+v", s)
	}
	if want := 16 * ms; s.threshold != want {
		t.Errorf("slow begins at %v, want %v", s.threshold, want)
	}
}

func testSummaryRequestUnderWay(t *testing.T) {
	o := &observation{
		shots: calmShots(1, time.Second), event: 900 * ms, subject: "b", ideal: 1,
		before: ownersNamed("a"), after: ownersNamed("b"),
	}
	hold(o.shots, 0, 800*ms, 1500*ms)
	var s handOverSummary
	s.add(o)
	if want := []time.Duration{698 * ms}; !slices.Equal(s.pauses, want) {
		t.Errorf("the pauses are %v, want %v", s.pauses, want)
	}
	if len(s.usual) != 80 || s.requests != 20 {
		t.Errorf("%d requests were over before, and %d were not", len(s.usual), s.requests)
	}
}

func testSummaryOtherPartitions(t *testing.T) {
	o := &observation{
		shots: calmShots(4, 2*time.Second), event: time.Second, subject: "c", ideal: 1,
		before: ownersNamed("a a b c"), after: ownersNamed("a b b a"),
	}
	o.after[2].Epoch = 2
	hold(o.shots, 0, 1500*ms, 1540*ms) // requests of 1500, 1510, 1520 are slow; that of 1530 is not
	o.shots[len(o.shots)-1].code = "invocation_failed"
	o.shots[len(o.shots)-2].answered = false
	o.shots[len(o.shots)-2].took = 30 * time.Second
	var s handOverSummary
	s.add(o)
	if s.elsewhereSlow != 3+1 || s.slowest != 30*time.Second {
		t.Errorf("%d requests are slow, the slowest took %v", s.elsewhereSlow, s.slowest)
	}
	if s.failed["invocation_failed"] != 1 || s.unanswered != 1 || s.failures() != 2 {
		t.Errorf("failed: %v and %d", s.failed, s.unanswered)
	}
	if want := []time.Duration{38 * ms, 30*time.Second - 2*ms}; !slices.Equal(s.lulls, want) {
		t.Errorf("the others' pauses are %v, want %v", s.lulls, want)
	}
	if s.moved != 2 || s.excess != 1 || s.claimed != 1 {
		t.Errorf("%d moved, %d too many; %d claimed", s.moved, s.excess, s.claimed)
	}
}

func testSummaryRounds(t *testing.T) {
	var s handOverSummary
	for round := range 3 {
		o := &observation{
			shots: calmShots(2, time.Second), event: 500 * ms, subject: "b", ideal: 1,
			before: ownersNamed("a a"), after: ownersNamed("a b"),
		}
		hold(o.shots, 1, 600*ms, 600*ms+time.Duration(round+1)*100*ms)
		s.add(o)
	}
	if want := []time.Duration{98 * ms, 198 * ms, 298 * ms}; !slices.Equal(s.pauses, want) {
		t.Errorf("the pauses are %v, want %v", s.pauses, want)
	}
	if s.rounds != 3 || s.moved != 3 || s.ideal != 3 || s.requests != 300 {
		t.Errorf("%d rounds, %d of %d moved, %d requests", s.rounds, s.moved, s.ideal, s.requests)
	}
	if text := s.table(&handOver{"join", nil, 250 * ms, 99}); !strings.Contains(text, "MISSED") {
		t.Errorf("the table does not say that the pause is too long:\n%s", text)
	}
	if text := s.table(&handOver{"join", nil, 350 * ms, 99}); strings.Contains(text, "MISSED") || strings.Contains(text, "busy") {
		t.Errorf("the table finds fault with what is well:\n%s", text)
	}
}

func testSummaryPercentile(t *testing.T) {
	var hundred []time.Duration
	for n := range 100 {
		hundred = append(hundred, time.Duration(100-n))
	}
	for _, c := range []struct {
		of   []time.Duration
		p    int
		want time.Duration
	}{
		{hundred, 1, 1}, {hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100}, {hundred, 0, 1},
		{hundred[:3], 50, 99}, {hundred[:3], 99, 100}, {hundred[:1], 1, 100}, {nil, 50, 0},
	} {
		if got := percentile(c.of, c.p); got != c.want {
			t.Errorf("percentile %d of %d is %d, want %d", c.p, len(c.of), got, c.want)
		}
	}
}

func testSummaryOwners(t *testing.T) {
	released := ownersNamed("a b a")
	released[2].Released = true
	for _, c := range []struct {
		owners    []harness.Lease
		instances string
		want      bool
	}{
		{ownersNamed("a b a"), "a b", true},
		{ownersNamed("a b a"), "a b c", false},
		{ownersNamed("a b a"), "a", false},
		{released, "a b", false},
		{make([]harness.Lease, 2), "a", false},
		{nil, "a", false},
	} {
		if got := harness.OwnedBy(c.owners, strings.Fields(c.instances)); got != c.want {
			t.Errorf("%s: owned by %s alone: %v", harness.CountOwners(c.owners), c.instances, got)
		}
	}
	if n := harness.CountOwned(released, "a"); n != 1 {
		t.Errorf("a holds %d, want 1", n)
	}
}

// While an instance is frozen, the load sees a pause in each partition, and none before
// and after.
func TestSteadyLoad(t *testing.T) {
	t.Parallel()
	const partitions, interval, stopped = 8, 40 * ms, 800 * ms
	s := harness.NewSite(t)
	v := s.Serve(t)
	l := startLoad(t, s, createUsersOf(t, s.NewCaller(t), partitions, 2), interval)
	harness.Eventually(t, "the usual latency is known", func() bool { return l.now() > time.Second })
	o := &observation{event: l.now(), subject: "another", ideal: partitions,
		before: make([]harness.Lease, partitions), after: ownersNamed(strings.Repeat("another ", partitions))}
	if err := v.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Cmd.Process.Signal(syscall.SIGCONT) })
	harness.Eventually(t, "requests wait", func() bool { return l.waitsFor() > stopped })
	if err := v.Cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "no request waits longer than before", func() bool { return l.waitsFor() < stopped })
	o.shots = l.finish(t)
	var sum handOverSummary
	sum.add(o)

	// The request that waits the longest may have waited before, as long as any did
	// on a machine that is busy.
	least := stopped - interval - percentile(sum.usual, 50) - percentile(sum.usual, 100)
	if got := slices.Min(sum.pauses); len(sum.pauses) != partitions || got < least {
		t.Errorf("a pause of %v is seen as %v in %d partitions", stopped, got, len(sum.pauses))
	}
	if n := sum.failures(); n > 0 {
		t.Errorf("%d of %d requests failed: %v", n, sum.requests, sum.failed)
	}
	perPartition := make([]int, partitions)
	for _, x := range o.shots {
		perPartition[x.partition]++
	}
	if slices.Max(perPartition)-slices.Min(perPartition) > 1 || slices.Max(perPartition) < int(time.Second/interval) {
		t.Errorf("the partitions were asked %v times", perPartition)
	}
	t.Logf("usually %v, then %v to %v", percentile(sum.usual, 50), slices.Min(sum.pauses), slices.Max(sum.pauses))
}
