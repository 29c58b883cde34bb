package sim

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "simulate this seed alone, and print what happens")
	simRuns  = flag.Int("sim.runs", defaultRuns(), "how many histories to simulate")
	simLarge = flag.Bool("sim.large", long, "simulate 200 instances and 1,024 partitions through faults")
)

// long is set if the tests may take minutes.
var long = os.Getenv("GLOTPOD_IDENT_TEST_LONG") != ""

func defaultRuns() int {
	if long {
		return 1000
	}
	return 25
}

// settleLimit is how long the instances may take to settle after the last fault: as
// long as a survey of the epoch table may take, because the messages about the fault
// may all be lost.
const settleLimit = 15 * time.Second

// runHistory makes a world of a few instances from a seed, injects all kinds of faults,
// and checks that the instances settle afterwards.
func runHistory(seed uint64, change func(*setting), trace func(string, ...any)) (w *world, settled time.Duration) {
	w = newWorld(setting{seed: seed}, trace)
	s := &w.setting
	s.partitions = 1 + w.random.IntN(24)
	s.exclusive, s.weighted = w.chance(0.3), w.chance(0.5)
	s.writeEvery = w.between(20*time.Millisecond, 400*time.Millisecond)
	instances, interval := 1+w.random.IntN(8), w.between(300*time.Millisecond, 5*time.Second)
	if w.chance(0.01) {
		s.partitions, instances, interval = 100+w.random.IntN(200), 20+w.random.IntN(30), interval/5
	}
	if change != nil {
		change(s)
	}
	w.open()
	for n := range instances {
		w.launch(fmt.Sprintf("n%02d", n))
	}
	if w.chance(0.7) {
		w.makeUnreliable()
	}
	w.injectFaults(40*time.Second, interval)
	w.stopFaults()
	settled = w.settle(settleLimit)
	w.checkAtRest(12)
	return w, settled
}

// In every history, writes are accepted from the owner alone and in the order of the
// epochs, and what is read from memory is what was written last. After the last fault, each partition is served by the instance that the ring
// assigns it to, and the instances send only heartbeats.
func TestHistories(t *testing.T) {
	if *simSeed != 0 {
		w, settled := runHistory(*simSeed, nil, traceTo(t))
		t.Logf("settled %v after the last fault; %+v", settled, w.count)
		report(t, "TestHistories", *simSeed, w)
		return
	}
	var seed atomic.Uint64
	var workers sync.WaitGroup
	var mu sync.Mutex // guards the following variables
	var total count
	var longest, sum time.Duration
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for n := seed.Add(1); n <= uint64(*simRuns) && !t.Failed(); n = seed.Add(1) {
				w, settled := runHistory(n, nil, nil)
				mu.Lock()
				report(t, "TestHistories", n, w)
				total.add(w.count)
				longest, sum = max(longest, settled), sum+settled
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	t.Logf("%d histories settled after %v on average and %v at most", *simRuns, sum/time.Duration(*simRuns), longest)
	t.Log(total)
}

// A history depends on its seed alone.
func TestReplay(t *testing.T) {
	for seed := range uint64(5) {
		var traces [2]strings.Builder
		for i := range traces {
			runHistory(seed, nil, func(format string, args ...any) { fmt.Fprintf(&traces[i], format+"\n", args...) })
		}
		if traces[0].String() != traces[1].String() || traces[0].Len() == 0 {
			t.Errorf("seed %d: two histories of %d and %d bytes differ", seed, traces[0].Len(), traces[1].Len())
		}
	}
}

// The same holds for hundreds of instances and a thousand partitions.
func TestLargeHistory(t *testing.T) {
	instances, partitions, trouble := 40, 512, 4*time.Second
	if *simLarge {
		instances, partitions, trouble = 200, 1024, 30*time.Second
	}
	seed := max(*simSeed, 1)
	w := newWorld(setting{seed: seed, partitions: partitions, writeEvery: time.Second}, nil)
	w.open()
	for n := range instances {
		w.afterFault(w.between(0, time.Second), func() { w.launch(fmt.Sprintf("n%03d", n)) })
	}
	w.stopFaults()
	t.Logf("%d instances settled %v after they were started", instances, w.settle(settleLimit))
	w.makeUnreliable()
	w.injectFaults(trouble, 200*time.Millisecond)
	w.stopFaults()
	t.Logf("settled %v after the last fault", w.settle(settleLimit))
	w.checkAtRest(3)
	t.Log(w.count)
	report(t, "TestLargeHistory", seed, w)
}

// The simulation detects stale writes if the fence is missing, reads the epoch without a
// lock, or does not compare the holder.
func TestMissingFence(t *testing.T) {
	for _, f := range []fence{checkOnly, epochOnly, none} {
		found := false
		for seed := uint64(1); seed <= 300 && !found; seed++ {
			w, _ := runHistory(seed, func(s *setting) { s.fence = f }, nil)
			found = slices.ContainsFunc(w.failures, func(s string) bool { return strings.Contains(s, "took a write") })
		}
		if !found {
			t.Errorf("no stale write was found with fence %d", f)
		}
	}
}

// The simulation detects stale reads if writes do not wait for the reads of a deposed holder.
func TestMissingWait(t *testing.T) {
	for seed := uint64(1); seed <= 100; seed++ {
		w, _ := runHistory(seed, func(s *setting) { s.impatient = true }, nil)
		if slices.ContainsFunc(w.failures, func(s string) bool { return strings.Contains(s, "from memory") }) {
			return
		}
	}
	t.Error("no stale read was found")
}

// report fails the test if a world has failures, and says how to repeat the history.
func report(t *testing.T, test string, seed uint64, w *world) {
	if len(w.failures) > 0 {
		t.Errorf("seed %d:\n  %s\nagain: go test ./cluster/ownership/sim -v -run '^%s$' -sim.seed=%d",
			seed, strings.Join(w.failures, "\n  "), test, seed)
	}
}

func traceTo(t *testing.T) func(string, ...any) {
	return func(format string, args ...any) { fmt.Fprintf(t.Output(), format+"\n", args...) }
}

func (c *count) add(other count) {
	c.steps += other.steps
	c.broadcasts += other.broadcasts
	c.sent += other.sent
	c.probes += other.probes
	c.claims += other.claims
	c.claimsRefused += other.claimsRefused
	c.surveys += other.surveys
	c.membersRefused += other.membersRefused
	c.stops += other.stops
	c.suspected += other.suspected
	c.won += other.won
	c.granted += other.granted
	c.moved += other.moved
	c.deposed += other.deposed
	c.handedOver += other.handedOver
	c.abandoned += other.abandoned
	c.writes += other.writes
	c.fenced += other.fenced
	c.reads += other.reads
	for name, n := range other.faults {
		if c.faults == nil {
			c.faults = make(map[string]int)
		}
		c.faults[name] += n
	}
}

func (c count) String() string {
	var faults []string
	for _, name := range slices.Sorted(maps.Keys(c.faults)) {
		faults = append(faults, fmt.Sprintf("%d× %s", c.faults[name], name))
	}
	return fmt.Sprintf("%d events, %d messages to all, %d to one, %d probes, %d surveys; claims: %d, %d refused, %d won; %d granted; %d of both from another name; "+
		"%d suspicions, %d hand-overs, %d abandons; writes: %d, and %d fenced off; %d refusals, %d stops; faults: %s",
		c.steps, c.broadcasts, c.sent, c.probes, c.surveys, c.claims, c.claimsRefused, c.won, c.granted, c.moved,
		c.suspected, c.handedOver, c.abandoned, c.writes, c.fenced, c.membersRefused, c.stops, strings.Join(faults, ", "))
}
