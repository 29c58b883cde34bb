package metrics

import (
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestMeter(t *testing.T) {
	var m Meter
	for range 50 {
		for range 20 {
			m.Count()
		}
		m.Measure(2 * time.Second)
	}
	if r := m.PerSecond(); r < 9.9 || r > 10 {
		t.Errorf("the rate is %v", r)
	}
	m.Measure(time.Second)
	if r := m.PerSecond(); r < 6 || r > 7.1 {
		t.Errorf("after a second without requests the rate is %v", r)
	}
}

func TestTraffic(t *testing.T) {
	var tr Traffic
	start := time.Unix(1_000_000, 0).Truncate(trafficEvery)
	total := uint64(0)
	counts := func() []uint64 { return []uint64{total, 2 * total} }
	for n := range 100 {
		total += uint64(n)
		tr.Record(start.Add(time.Duration(n)*trafficEvery), counts)
		tr.Record(start.Add(time.Duration(n)*trafficEvery+time.Second), func() []uint64 { panic("a second point in one interval") })
	}
	r := tr.Report()
	if len(r.Points) != trafficPoints || r.IntervalSeconds != 10 || len(r.BoundsSeconds) != len(durationBuckets) {
		t.Fatalf("%d points every %d s", len(r.Points), r.IntervalSeconds)
	}
	last := r.Points[trafficPoints-1]
	if last.End != start.Add(99*trafficEvery).Unix() || !slices.Equal(last.Counts, []uint64{99, 198}) {
		t.Errorf("the last point is %+v", last)
	}
}

func TestMetrics(t *testing.T) {
	t.Run("durations_by_bucket", func(t *testing.T) {
		m := New()
		m.Completed("get", WayShared, OutcomeOK, "", time.Microsecond)
		m.Completed("patch", WayDirect, OutcomeOK, "", time.Hour)
		m.Completed("patch", WayDirect, OutcomeForwarded, "", 0) // has no reply
		counts := m.DurationCounts()
		if len(counts) != len(durationBuckets)+1 || counts[0] != 1 || counts[len(counts)-1] != 1 {
			t.Errorf("%v", counts)
		}
	})

	t.Run("unknown_operations_are_one", func(t *testing.T) {
		m := New()
		for _, name := range []string{"", "a", "b"} {
			m.Completed(name, WayShared, string("bad_request"), "", time.Second)
		}
		if n := Count(m.Requests.WithLabelValues(OperationUnknown, WayShared, "bad_request")); n != 3 {
			t.Errorf("%v", n)
		}
	})
}

func TestProcessors(t *testing.T) {
	for text, want := range map[string]float64{"50000 100000\n": 0.5, "max 100000\n": float64(runtime.NumCPU()), "": float64(runtime.NumCPU()), "1 0": float64(runtime.NumCPU())} {
		if got := parseCPULimit(text); got != want {
			t.Errorf("the limit of %q is %v, want %v", text, got, want)
		}
	}
	if n := Processors(); n <= 0 || n > float64(runtime.GOMAXPROCS(0)) {
		t.Errorf("there are %v processors", n)
	}
	before := ProcessCPU()
	for deadline := time.Now().Add(10 * time.Second); ProcessCPU() == before; {
		if time.Now().After(deadline) {
			t.Fatal("no CPU time is used")
		}
	}
}
