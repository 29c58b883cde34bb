package metrics

import (
	"slices"
	"sync"
	"time"

	"github.com/glotpod/ident/cluster/membership"
)

const (
	// trafficEvery is the time between two points of the traffic. Points are at multiples
	// of it by each instance's clock, so that those of several instances can be added.
	trafficEvery = 10 * time.Second

	// trafficPoints is how many points are kept: those of the last ten minutes.
	trafficPoints = 60
)

// Traffic records how many requests were replied to in the last minutes, and how fast.
type Traffic struct {
	mu     sync.Mutex // guards the following fields
	points []membership.TrafficPoint
	counts []uint64 // of all requests until the last point, by duration
	end    time.Time
}

// Record adds a point if it is time. counts returns the number of requests that were
// replied to since the start of the process, by their duration.
func (t *Traffic) Record(now time.Time, counts func() []uint64) {
	end := now.Truncate(trafficEvery)
	t.mu.Lock()
	defer t.mu.Unlock()
	if end.Equal(t.end) {
		return
	}
	first := t.counts == nil
	before := t.counts
	t.end, t.counts = end, counts()
	if first {
		return // these are of an unknown time
	}
	point := membership.TrafficPoint{End: end.Unix(), Counts: slices.Clone(t.counts)}
	for i := range before {
		point.Counts[i] -= before[i]
	}
	t.points = append(t.points, point)
	if len(t.points) > trafficPoints {
		t.points = slices.Delete(t.points, 0, len(t.points)-trafficPoints)
	}
}

// Report returns the points.
func (t *Traffic) Report() membership.Traffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	return membership.Traffic{
		IntervalSeconds: int(trafficEvery / time.Second),
		BoundsSeconds:   durationBuckets,
		Points:          slices.Clone(t.points),
	}
}
