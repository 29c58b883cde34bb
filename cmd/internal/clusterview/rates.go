package clusterview

import (
	"maps"
	"slices"

	"github.com/glotpod/ident/cluster/membership"
)

// A ratePoint says how many requests all instances replied to in an interval, and how
// long that took. The quantiles are estimates, since instances count durations in
// buckets.
type ratePoint struct {
	End       int64    `json:"end"` // Unix time in seconds
	PerSecond float64  `json:"per_second"`
	P50       *float64 `json:"p50_seconds"` // nil: there were no requests
	P99       *float64 `json:"p99_seconds"`
}

// A rateSum is the sum of the members' counts for one interval.
type rateSum struct {
	intervalSeconds int
	boundsSeconds   []float64 // the upper bounds of the buckets except the last
	counts          []uint64  // by bucket
}

// sumRates adds the traffic of the members.
func sumRates(members []membership.Report) []ratePoint {
	sums := make(map[int64]*rateSum)
	for _, m := range members {
		for _, point := range m.Traffic.Points {
			s := sums[point.End]
			if s == nil {
				s = &rateSum{m.Traffic.IntervalSeconds, m.Traffic.BoundsSeconds, make([]uint64, len(point.Counts))}
				sums[point.End] = s
			}
			s.add(m.Traffic, point)
		}
	}
	rates := []ratePoint{}
	for _, end := range slices.Sorted(maps.Keys(sums)) {
		rates = append(rates, sums[end].point(end))
	}
	return rates
}

// add adds a member's counts. It ignores a member of another version that counts in
// other buckets.
func (s *rateSum) add(t membership.Traffic, point membership.TrafficPoint) {
	if s.intervalSeconds != t.IntervalSeconds || !slices.Equal(s.boundsSeconds, t.BoundsSeconds) {
		return
	}
	for i, n := range point.Counts {
		s.counts[i] += n
	}
}

func (s *rateSum) point(end int64) ratePoint {
	total := uint64(0)
	for _, n := range s.counts {
		total += n
	}
	return ratePoint{
		End:       end,
		PerSecond: float64(total) / float64(s.intervalSeconds),
		P50:       quantile(0.5, s.boundsSeconds, s.counts, total),
		P99:       quantile(0.99, s.boundsSeconds, s.counts, total),
	}
}

// quantile estimates the duration that the share q of total requests did not exceed. It
// assumes that durations are spread evenly within a bucket, and that durations beyond
// the last bound are equal to it. It returns nil if total is 0.
func quantile(q float64, bounds []float64, counts []uint64, total uint64) *float64 {
	if total == 0 {
		return nil
	}
	rank, below, lower := q*float64(total), 0.0, 0.0
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
