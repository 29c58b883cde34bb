package clusterview

import (
	"math"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/membership"
)

// member returns the report of a member that serves partitions, of which there are four.
func member(name string, served ...int) membership.Report {
	r := membership.Report{State: "ready", Parameters: membership.Parameters{Partitions: 4}}
	r.Name, r.Start = name, 1
	for _, p := range served {
		r.Partitions = append(r.Partitions, membership.ServedPartition{Partition: p, Phase: "owned", Epoch: 1})
	}
	return r
}

// viewOf returns a view of a cluster that has all queues.
func viewOf(members ...membership.Report) *view {
	v := newView("a", newOverview(members), time.Unix(1000, 0))
	none := 0
	v.SharedQueue.MessagesReady = &none
	for p := range v.Partitions {
		v.Partitions[p].Queue.MessagesReady = &none
	}
	return v
}

func TestProblems(t *testing.T) {
	troubled := member("a", 0, 1, 2, 3)
	troubled.Problems = []string{"the database is unreachable"}
	later := member("b", 1)
	later.Partitions[0].Epoch = 2
	for name, test := range map[string]struct {
		members []membership.Report
		change  func(*view)
		want    []string
	}{
		"none":          {[]membership.Report{member("a", 0, 1), member("b", 2, 3)}, nil, []string{}},
		"of a member":   {[]membership.Report{troubled}, nil, []string{"a: the database is unreachable."}},
		"without owner": {[]membership.Report{member("a", 0)}, nil, []string{"3 of 4 partitions have no owner: 1-3. Requests for their users wait."}},
		"no reply": {[]membership.Report{member("a", 0, 1, 2)}, func(v *view) { v.Missing = []string{"b"} },
			[]string{"b does not reply, but other instances believe that it is alive.",
				"1 of 4 partitions have no owner among the instances that replied: 3. Requests for their users wait."}},
		"two owners": {[]membership.Report{member("a", 0, 1, 2, 3), later}, nil,
			[]string{"Several instances serve the same partitions, but only one of them can write: 1."}},
		"no queues": {[]membership.Report{member("a", 0, 1, 2, 3)}, func(v *view) {
			v.SharedQueue.MessagesReady, v.Partitions[2].Queue.MessagesReady = nil, nil
		}, []string{"The broker does not have the shared queue " + viewOf().SharedQueue.Name + ".",
			"The broker does not have the queues of these partitions: 2."}},
	} {
		t.Run(name, func(t *testing.T) {
			v := viewOf(test.members...)
			if test.change != nil {
				test.change(v)
			}
			if got := v.FindProblems(); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestOverview(t *testing.T) {
	later := member("b", 1)
	later.Partitions[0].Epoch = 2
	o := newOverview([]membership.Report{member("a", 0, 1), later, member("c", 1)})
	t.Run("the greatest epoch owns", func(t *testing.T) {
		if p := o.Partitions[1]; p.Owner != "b" || p.Epoch != 2 || !reflect.DeepEqual(p.OutdatedClaims, []claim{{"a", 1}, {"c", 1}}) {
			t.Errorf("got %+v", p)
		}
	})
	t.Run("contested and unowned", func(t *testing.T) {
		if !reflect.DeepEqual(o.Contested, []int{1}) || !reflect.DeepEqual(o.Unowned, []int{2, 3}) || o.healthy() {
			t.Errorf("contested %v, unowned %v, healthy %v", o.Contested, o.Unowned, o.healthy())
		}
	})
	t.Run("the latest generation", func(t *testing.T) {
		late, early := member("b", 0, 1, 2, 3), member("a", 0, 1, 2, 3)
		late.Parameters.First = 8
		o := newOverview([]membership.Report{early, late})
		if p := o.Partitions[1]; !o.healthy() || p.Owner != "b" || p.Queue.Name != "glotpod.rpc/ident/0009" {
			t.Errorf("got %+v", p)
		}
	})
	t.Run("healthy", func(t *testing.T) {
		if o := newOverview([]membership.Report{member("a", 0, 1), member("b", 2, 3)}); !o.healthy() {
			t.Errorf("got %+v", o)
		}
	})
}

// The status shows weights that differ, and what operators have moved.
func TestShares(t *testing.T) {
	a, b := member("a", 0, 1), member("b", 2, 3)
	print := func(a, b membership.Report) string {
		var text strings.Builder
		if err := newOverview([]membership.Report{a, b}).Print(&text, time.Now()); err != nil {
			t.Fatal(err)
		}
		return text.String()
	}
	a.Weight, b.Weight = 1, 1
	if got := print(a, b); strings.Contains(got, "Weights") || strings.Contains(got, "Moved") {
		t.Errorf("although there is nothing to say: %s", got)
	}
	a.Weight, b.Moved = 0.5, []int{0, 1, 3}
	if got := print(a, b); !strings.Contains(got, "\nWeights: a 0.5, b 1\nMoved by operators: 0-1, 3 to b\n") {
		t.Errorf("%s", got)
	}
	if p := newOverview([]membership.Report{a, b}).Partitions; p[1].MovedTo != "b" || p[2].MovedTo != "" {
		t.Errorf("%+v", p)
	}
}

func TestRanges(t *testing.T) {
	for want, numbers := range map[string][]int{"": nil, "7": {7}, "0-3, 7": {0, 1, 2, 3, 7}, "1, 3, 5-6": {1, 3, 5, 6}} {
		if got := ranges(numbers); got != want {
			t.Errorf("ranges of %v: %q, want %q", numbers, got, want)
		}
	}
}

func TestChanges(t *testing.T) {
	withMissing := func(v *view, name string) *view {
		v.Missing = []string{name}
		return v
	}
	restarted := member("b", 2, 3)
	restarted.Start, restarted.State = 2, "joining"
	draining := member("b", 2, 3)
	draining.State = "draining"
	for name, test := range map[string]struct {
		before, after *view
		want          []string
	}{
		"first view": {nil, viewOf(member("a", 0)), nil},
		"none":       {viewOf(member("a", 0, 1, 2, 3)), viewOf(member("a", 0, 1, 2, 3)), nil},
		"join": {viewOf(member("a", 0, 1, 2, 3)), viewOf(member("a", 1), member("b", 0, 2, 3)),
			[]string{"b has joined and is ready", "3 partitions moved from a to b: 0, 2-3"}},
		"leave": {viewOf(member("a", 0), member("b", 1, 2, 3)), viewOf(member("a", 0, 1)),
			[]string{"b is gone", "2 partitions moved from b to no owner: 2-3", "1 partition moved from b to a: 1"}},
		"no reply": {viewOf(member("a", 0, 1), member("b", 2, 3)), withMissing(viewOf(member("a", 0, 1, 2, 3)), "b"),
			[]string{"b does not reply", "2 partitions moved from b to a: 2-3"}},
		"reply again": {withMissing(viewOf(member("a", 0, 1, 2, 3)), "b"), viewOf(member("a", 0, 1, 2, 3), member("b")),
			[]string{"b replies again and is ready"}},
		"restart": {viewOf(member("a", 0, 1), member("b", 2, 3)), viewOf(member("a", 0, 1), restarted),
			[]string{"b has restarted and is joining"}},
		"drain": {viewOf(member("a", 0, 1), member("b", 2, 3)), viewOf(member("a", 0, 1), draining),
			[]string{"b is draining"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, c := range test.after.changesSince(test.before) {
				got = append(got, c.What)
				if !c.At.Equal(test.after.At) {
					t.Errorf("%q at %v", c.What, c.At)
				}
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// busy returns the report of a member with traffic in intervals of 10 s.
func busy(points ...membership.TrafficPoint) membership.Report {
	return membership.Report{Traffic: membership.Traffic{IntervalSeconds: 10, BoundsSeconds: []float64{0.1, 0.2}, Points: points}}
}

func TestRates(t *testing.T) {
	point := func(end int64, counts ...uint64) membership.TrafficPoint {
		return membership.TrafficPoint{End: end, Counts: counts}
	}
	otherBuckets := busy(point(20, 900, 900, 900))
	otherBuckets.Traffic.BoundsSeconds = []float64{1, 2}
	rates := sumRates([]membership.Report{
		busy(point(10, 10, 0, 0), point(20, 40, 10, 0)),
		busy(point(20, 40, 10, 0), point(30, 0, 0, 0)),
		otherBuckets,
	})
	if len(rates) != 3 || rates[0].End != 10 || rates[1].End != 20 || rates[2].End != 30 {
		t.Fatalf("got %+v", rates)
	}
	t.Run("sum of all members", func(t *testing.T) {
		if rates[0].PerSecond != 1 || rates[1].PerSecond != 10 || rates[2].PerSecond != 0 {
			t.Errorf("per second: %v, %v, %v", rates[0].PerSecond, rates[1].PerSecond, rates[2].PerSecond)
		}
	})
	t.Run("quantiles", func(t *testing.T) {
		if p50 := rates[1].P50; p50 == nil || math.Abs(*p50-0.0625) > 1e-9 {
			t.Errorf("p50: %v", p50)
		}
		if rates[2].P50 != nil || rates[2].P99 != nil {
			t.Error("an interval without requests has quantiles")
		}
	})
}

func TestQuantile(t *testing.T) {
	bounds := []float64{0.1, 0.2, 0.4}
	for _, test := range []struct {
		q      float64
		counts []uint64
		want   float64
	}{
		{0.5, []uint64{10, 0, 0, 0}, 0.05},
		{0.5, []uint64{0, 0, 10, 0}, 0.3},
		{0.99, []uint64{50, 50, 0, 0}, 0.198},
		{0.99, []uint64{0, 0, 0, 10}, 0.4}, // beyond the last bound
		{0.5, []uint64{5, 0, 5, 0}, 0.1},
	} {
		total := uint64(0)
		for _, n := range test.counts {
			total += n
		}
		if got := quantile(test.q, bounds, test.counts, total); got == nil || math.Abs(*got-test.want) > 1e-9 {
			t.Errorf("%v of %v: got %v, want %v", test.q, test.counts, got, test.want)
		}
	}
	if got := quantile(0.5, bounds, []uint64{0, 0, 0, 0}, 0); got != nil {
		t.Errorf("without requests: %v", *got)
	}
}

// TestUserView: the sentences say where the requests of a user are.
func TestUserView(t *testing.T) {
	ready, none := 2, 0
	const noOwner = "The owner of partition 3 did not reply, as one of an older version does not, or no instance owns it. If none does, writes for the user wait in its queue."
	owned := UserView{Partition: 3, Owner: "a", Phase: "owned", Queue: queueLength{MessagesReady: &none}}
	for name, test := range map[string]struct {
		change func(*UserView)
		want   []string
	}{
		"idle":     {func(*UserView) {}, []string{"No request for the user is in progress at a."}},
		"no owner": {func(v *UserView) { v.Owner = "" }, []string{noOwner}},
		"no queue": {func(v *UserView) { v.Owner, v.Queue.MessagesReady = "", nil },
			[]string{"The broker does not have the queue of partition 3.", noOwner}},
		"moving": {func(v *UserView) { v.Phase, v.Queue.MessagesReady = "starting", &ready },
			[]string{"Partition 3 is starting at a. Writes for the user wait in its queue until that is over.", "No request for the user is in progress at a.",
				"2 requests wait in the partition's queue, perhaps for other users."}},
		"busy": {func(v *UserView) {
			v.InProgress, v.Waiting, v.Writes, v.Mailbox, v.OldestSeconds = 1, 4, 3, 256, 1.5
			v.Commit = membership.UserCommit{Stage: "in a transaction", Seconds: 1.25, BusySeconds: 0.5, Behind: 1}
		}, []string{"1 request in progress, 4 in the mailbox for 256, 3 of them writes. The first one came 1.5s ago.",
			"Writes have been in the store for 1.25s. They are in a transaction.",
			"A transaction of the partition has been under way for 500ms. Writes for 1 user wait for it."}},
		"held back": {func(v *UserView) {
			v.Notifications = membership.UserNotifications{Pending: 1, HeldBack: true, RoutingKey: "k"}
		},
			[]string{"No request for the user is in progress at a.", "1 notification not confirmed by the broker yet.",
				"Notifications are held back: a queue that is bound to k takes no more or confirms nothing."}},
	} {
		v := owned
		test.change(&v)
		if got := v.explain(); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	var printed strings.Builder
	if err := (&UserView{Partition: 3, Explained: []string{noOwner}}).Print(&printed); err != nil || regexp.MustCompile(`true|false`).MatchString(printed.String()) {
		t.Errorf("without a reply of the owner: %s %v", printed.String(), err)
	}
}
