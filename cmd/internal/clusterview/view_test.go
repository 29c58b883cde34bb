package clusterview

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/membership"
)

// member returns a report of somebody who owns partitions of four.
func member(name string, owned ...int) membership.Report {
	r := membership.Report{State: "ready", Parameters: membership.Parameters{Partitions: 4}}
	r.Name, r.Start = name, 1
	for _, p := range owned {
		r.Partitions = append(r.Partitions, membership.ServedPartition{Partition: p, Phase: "owned", Epoch: 1})
	}
	return r
}

// viewOf returns a view of a cluster all of whose queues are there.
func viewOf(members ...membership.Report) *view {
	v := newView("a", newOverview(members), time.Unix(1000, 0))
	none := 0
	v.SharedQueue.MessagesReady = &none
	for p := range v.Partitions {
		v.Partitions[p].Queue.MessagesReady = &none
	}
	return v
}

func TestViewSaysInWordsWhatIsWrong(t *testing.T) {
	troubled := member("a", 0, 1, 2, 3)
	troubled.Problems = []string{"the database is out of reach"}
	later := member("b", 1)
	later.Partitions[0].Epoch = 2
	for name, test := range map[string]struct {
		members []membership.Report
		change  func(*view)
		want    []string
	}{
		"all is well":     {[]membership.Report{member("a", 0, 1), member("b", 2, 3)}, nil, []string{}},
		"a member's word": {[]membership.Report{troubled}, nil, []string{"a: the database is out of reach."}},
		"nobody's": {[]membership.Report{member("a", 0)}, nil,
			[]string{"Nobody owns 3 of 4 partitions: 1-3. Requests to their users wait."}},
		"no answer": {[]membership.Report{member("a", 0, 1, 2)}, func(v *view) { v.Missing = []string{"b"} },
			[]string{"b does not answer, though others believe it to be alive.",
				"Nobody who answers owns 1 of 4 partitions: 3. Requests to their users wait."}},
		"two believe to own one": {[]membership.Report{member("a", 0, 1, 2, 3), later}, nil,
			[]string{"Several instances believe to own the same partitions, of whom only one can write: 1."}},
		"no queues": {[]membership.Report{member("a", 0, 1, 2, 3)}, func(v *view) {
			v.SharedQueue.MessagesReady, v.Partitions[2].Queue.MessagesReady = nil, nil
		}, []string{"The broker has no queue " + viewOf().SharedQueue.Name + ", which requests come by.",
			"The broker lacks the queues of these partitions: 2."}},
	} {
		v := viewOf(test.members...)
		if test.change != nil {
			test.change(v)
		}
		if got := v.problems(); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestViewSaysWhatHasChanged(t *testing.T) {
	silent := func(v *view, name string) *view {
		v.Missing = []string{name}
		return v
	}
	anew := member("b", 2, 3)
	anew.Start, anew.State = 2, "joining"
	draining := member("b", 2, 3)
	draining.State = "draining"
	for name, test := range map[string]struct {
		before, after *view
		want          []string
	}{
		"the first look": {nil, viewOf(member("a", 0)), nil},
		"nothing":        {viewOf(member("a", 0, 1, 2, 3)), viewOf(member("a", 0, 1, 2, 3)), nil},
		"one comes, and takes some": {viewOf(member("a", 0, 1, 2, 3)), viewOf(member("a", 1), member("b", 0, 2, 3)),
			[]string{"b has come, as ready", "3 partitions moved from a to b: 0, 2-3"}},
		"one goes": {viewOf(member("a", 0), member("b", 1, 2, 3)), viewOf(member("a", 0, 1)),
			[]string{"b is gone", "2 partitions moved from b to nobody: 2-3", "1 partition moved from b to a: 1"}},
		"one falls silent": {viewOf(member("a", 0, 1), member("b", 2, 3)), silent(viewOf(member("a", 0, 1, 2, 3)), "b"),
			[]string{"b does not answer", "2 partitions moved from b to a: 2-3"}},
		"it is heard of": {silent(viewOf(member("a", 0, 1, 2, 3)), "b"), viewOf(member("a", 0, 1, 2, 3), member("b")),
			[]string{"b answers again, as ready"}},
		"one starts anew": {viewOf(member("a", 0, 1), member("b", 2, 3)), viewOf(member("a", 0, 1), anew),
			[]string{"b has started anew, as joining"}},
		"one drains": {viewOf(member("a", 0, 1), member("b", 2, 3)), viewOf(member("a", 0, 1), draining),
			[]string{"b is draining"}},
	} {
		var got []string
		for _, c := range test.after.since(test.before) {
			got = append(got, c.What)
			if !c.At.Equal(test.after.At) {
				t.Errorf("%s: %q at %v", name, c.What, c.At)
			}
		}
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// busy returns a report of somebody with traffic in intervals of 10 s.
func busy(points ...membership.TrafficPoint) membership.Report {
	return membership.Report{Traffic: membership.Traffic{IntervalSeconds: 10, BoundsSeconds: []float64{0.1, 0.2}, Points: points}}
}

func TestRatesAreOfAllMembersTogether(t *testing.T) {
	point := func(end int64, counts ...uint64) membership.TrafficPoint {
		return membership.TrafficPoint{End: end, Counts: counts}
	}
	other := busy(point(20, 900, 900, 900))
	other.Traffic.BoundsSeconds = []float64{1, 2}
	rates := ratesOf([]membership.Report{
		busy(point(10, 10, 0, 0), point(20, 40, 10, 0)),
		busy(point(20, 40, 10, 0), point(30, 0, 0, 0)),
		other, // of a program that counts in other classes
	})
	if len(rates) != 3 || rates[0].End != 10 || rates[1].End != 20 || rates[2].End != 30 {
		t.Fatalf("got %+v", rates)
	}
	if rates[0].PerSecond != 1 || rates[1].PerSecond != 10 || rates[2].PerSecond != 0 {
		t.Errorf("per second: %v, %v, %v", rates[0].PerSecond, rates[1].PerSecond, rates[2].PerSecond)
	}
	if p50 := rates[1].P50; p50 == nil || math.Abs(*p50-0.0625) > 1e-9 {
		t.Errorf("p50: %v", p50)
	}
	if rates[2].P50 != nil || rates[2].P99 != nil {
		t.Error("where there were no requests, they took a time")
	}
}

func TestQuantileLiesWithinItsClass(t *testing.T) {
	bounds := []float64{0.1, 0.2, 0.4}
	for _, test := range []struct {
		share  float64
		counts []uint64
		want   float64
	}{
		{0.5, []uint64{10, 0, 0, 0}, 0.05},
		{0.5, []uint64{0, 0, 10, 0}, 0.3},
		{0.99, []uint64{50, 50, 0, 0}, 0.198},
		{0.99, []uint64{0, 0, 0, 10}, 0.4}, // beyond what is told apart
		{0.5, []uint64{5, 0, 5, 0}, 0.1},
	} {
		total := uint64(0)
		for _, n := range test.counts {
			total += n
		}
		if got := quantile(test.share, bounds, test.counts, total); got == nil || math.Abs(*got-test.want) > 1e-9 {
			t.Errorf("%v of %v: got %v, want %v", test.share, test.counts, got, test.want)
		}
	}
	if got := quantile(0.5, bounds, []uint64{0, 0, 0, 0}, 0); got != nil {
		t.Errorf("of nothing: %v", *got)
	}
}
