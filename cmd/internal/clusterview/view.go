package clusterview

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/membership"
)

// A view is the cluster as one instance sees it.
type view struct {
	*Overview
	At       time.Time   `json:"at"`
	Seen     string      `json:"seen_from"` // the instance that has looked
	Problems []string    `json:"problems"`  // what is wrong, in words
	Rates    []ratePoint `json:"rates"`     // of the last minutes
	Changes  []change    `json:"changes"`   // that were seen lately, the latest last
}

// A ratePoint says how many requests the instances have answered together in an
// interval, and how fast: about, since only classes of time are counted.
type ratePoint struct {
	End       int64    `json:"end"` // Unix time in seconds
	PerSecond float64  `json:"per_second"`
	P50       *float64 `json:"p50_seconds"` // nil: there were no requests
	P99       *float64 `json:"p99_seconds"`
}

// A change is something that has become different from one look to the next.
type change struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

func newView(self string, o *Overview, now time.Time) *view {
	v := &view{Overview: o, At: now, Seen: self, Problems: o.problems(), Rates: ratesOf(o.Members)}
	if len(v.Rates) > 0 && now.Unix()-v.Rates[len(v.Rates)-1].End < settledAfter {
		v.Rates = v.Rates[:len(v.Rates)-1] // not all have counted it yet
	}
	o.WithoutTraffic()
	return v
}

// settledAfter is how many seconds after its end a point is sure to be reported
// by everybody whose clock is about right.
const settledAfter = 3

// WithoutTraffic leaves the members' traffic out.
func (o *Overview) WithoutTraffic() {
	for i := range o.Members {
		o.Members[i].Traffic = membership.Traffic{}
	}
}

// problems says in words what is wrong.
func (o *Overview) problems() []string {
	all := []string{}
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, name := range o.Missing {
		say("%s does not answer, though others believe it to be alive.", name)
	}
	if len(o.Unowned) > 0 {
		who := "Nobody"
		if len(o.Missing) > 0 {
			who = "Nobody who answers"
		}
		say("%s owns %d of %d partitions: %s. Requests to their users wait.", who, len(o.Unowned), len(o.Partitions), ranges(o.Unowned))
	}
	if len(o.Contested) > 0 {
		say("Several instances believe to own the same partitions, of whom only one can write: %s.", ranges(o.Contested))
	}
	if o.SharedQueue.MessagesReady == nil {
		say("The broker has no queue %s, which requests come by.", o.SharedQueue.Name)
	}
	var missing []int
	for _, p := range o.Partitions {
		if p.Queue.MessagesReady == nil {
			missing = append(missing, p.Partition)
		}
	}
	if len(missing) > 0 {
		say("The broker lacks the queues of these partitions: %s.", ranges(missing))
	}
	for _, m := range o.Members {
		for _, problem := range m.Problems {
			say("%s: %s.", m.Name, problem)
		}
	}
	return all
}

// ratesOf adds what the members say of their traffic.
func ratesOf(members []membership.Report) []ratePoint {
	type sum struct {
		membership.Traffic
		counts []uint64
	}
	sums := make(map[int64]*sum)
	for _, m := range members {
		for _, point := range m.Traffic.Points {
			s := sums[point.End]
			if s == nil {
				s = &sum{m.Traffic, make([]uint64, len(point.Counts))}
				sums[point.End] = s
			}
			if s.IntervalSeconds != m.Traffic.IntervalSeconds || !slices.Equal(s.BoundsSeconds, m.Traffic.BoundsSeconds) {
				continue // of another version, which counts in other classes
			}
			for i, n := range point.Counts {
				s.counts[i] += n
			}
		}
	}
	rates := []ratePoint{}
	for _, end := range slices.Sorted(maps.Keys(sums)) {
		s := sums[end]
		total := uint64(0)
		for _, n := range s.counts {
			total += n
		}
		rates = append(rates, ratePoint{
			End:       end,
			PerSecond: float64(total) / float64(s.IntervalSeconds),
			P50:       quantile(0.5, s.BoundsSeconds, s.counts, total),
			P99:       quantile(0.99, s.BoundsSeconds, s.counts, total),
		})
	}
	return rates
}

// quantile returns the time that a share of total requests took at most. Within a
// class it takes them to be spread evenly; what is beyond the last bound counts as
// that bound.
func quantile(share float64, bounds []float64, counts []uint64, total uint64) *float64 {
	if total == 0 {
		return nil
	}
	rank, below, lower := share*float64(total), 0.0, 0.0
	for i, upper := range bounds {
		n := float64(counts[i])
		if below+n >= rank && n > 0 {
			at := lower + (upper-lower)*(rank-below)/n
			return &at
		}
		below, lower = below+n, upper
	}
	return &lower
}

// since says what has changed since an earlier view, nil for none.
func (v *view) since(earlier *view) (changes []change) {
	if earlier == nil {
		return nil
	}
	say := func(format string, args ...any) {
		changes = append(changes, change{v.At, fmt.Sprintf(format, args...)})
	}
	before, now := earlier.members(), v.members()
	for _, name := range sortedUnion(before, now) {
		was, is := before[name], now[name]
		switch {
		case was == nil && slices.Contains(earlier.Missing, name):
			say("%s answers again, as %s", name, is.State)
		case was == nil:
			say("%s has come, as %s", name, is.State)
		case is == nil && slices.Contains(v.Missing, name):
			say("%s does not answer", name)
		case is == nil:
			say("%s is gone", name)
		case was.Start != is.Start:
			say("%s has started anew, as %s", name, is.State)
		case was.State != is.State:
			say("%s is %s", name, is.State)
		}
	}
	moves := make(map[[2]string][]int)
	for p := range min(len(v.Partitions), len(earlier.Partitions)) {
		if was, is := earlier.Partitions[p].Owner, v.Partitions[p].Owner; was != is {
			moves[[2]string{was, is}] = append(moves[[2]string{was, is}], p)
		}
	}
	pairs := slices.SortedFunc(maps.Keys(moves), func(a, b [2]string) int {
		return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
	})
	for _, pair := range pairs {
		say("%s moved from %s to %s: %s", plural(len(moves[pair]), "partition"), orNobody(pair[0]), orNobody(pair[1]), ranges(moves[pair]))
	}
	return changes
}

func (v *view) members() map[string]*membership.Report {
	byName := make(map[string]*membership.Report, len(v.Members))
	for i := range v.Members {
		byName[v.Members[i].Name] = &v.Members[i]
	}
	return byName
}

func sortedUnion(a, b map[string]*membership.Report) []string {
	names := maps.Clone(a)
	maps.Copy(names, b)
	return slices.Sorted(maps.Keys(names))
}

func orNobody(name string) string { return cmp.Or(name, "nobody") }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
