package cluster

import (
	"slices"
	"sync"
	"time"

	"github.com/glotpod/ident/cluster/membership"
)

const (
	// trafficEvery is the time that each point of the traffic is about. Points
	// begin at multiples of it, by each instance's clock, so that those of
	// several instances can be added.
	trafficEvery = 10 * time.Second

	// trafficPoints is how many are kept: of the last ten minutes.
	trafficPoints = 60
)

// traffic is how many requests were answered in the last minutes, and how fast.
type traffic struct {
	mu     sync.Mutex // guards the following fields
	points []membership.TrafficPoint
	counts []uint64 // of all requests until the last point
	end    time.Time
}

// note takes note of the traffic, if a point has ended. counts returns how many
// requests were answered in all, by the time that they took.
func (t *traffic) note(now time.Time, counts func() []uint64) {
	end := now.Truncate(trafficEvery)
	t.mu.Lock()
	defer t.mu.Unlock()
	if end.Equal(t.end) {
		return
	}
	first := t.counts == nil
	was := t.counts
	t.end, t.counts = end, counts()
	if first {
		return // since when is not known
	}
	point := membership.TrafficPoint{End: end.Unix(), Counts: slices.Clone(t.counts)}
	for i := range was {
		point.Counts[i] -= was[i]
	}
	t.points = append(t.points, point)
	if len(t.points) > trafficPoints {
		t.points = slices.Delete(t.points, 0, len(t.points)-trafficPoints)
	}
}

func (t *traffic) report() membership.Traffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	return membership.Traffic{
		IntervalSeconds: int(trafficEvery / time.Second),
		BoundsSeconds:   durationBuckets,
		Points:          slices.Clone(t.points),
	}
}
