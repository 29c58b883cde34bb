package handover

import (
	"slices"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// A shot is one request of a steady load, and what became of it.
type shot struct {
	partition int
	due       time.Duration // since the load's begin: when it was to be sent
	took      time.Duration // from due to the answer or, without one, to the load's end
	answered  bool
	code      string // of an answer that is an error
}

// An observation is what was seen of one event: a steady load before, during
// and after it, and the leases at the start and the end of the load.
type observation struct {
	shots         []shot
	late          time.Duration // by how much one was sent after it was due, at most
	warm          time.Duration // since the load's begin: from when on it counts
	event         time.Duration // since the load's begin
	before, after []harness.Lease
	ideal         int    // partitions that have to move
	subject       string // whoever came or went
}

// A handOverSummary is what observations come to. Requests count as slow beyond
// three times the 99th percentile of what was usual before the event, and 10 ms
// more.
type handOverSummary struct {
	rounds    int
	usual     []time.Duration // what requests took before the event
	usualSlow int             // of these requests
	threshold time.Duration   // from when on a request is slow; the greatest of all rounds
	late      time.Duration   // by how much the load itself was late, at most

	ideal   int // partitions that have to move
	moved   int
	excess  int             // of these, between owners that both stay
	claimed int             // partitions that did not move, but have another epoch
	pauses  []time.Duration // of each partition that moved
	lulls   []time.Duration // the same of those that did not: what the machine is to blame for

	requests   int            // around the event
	failed     map[string]int // of these, by the code of their error
	unanswered int            // of these

	elsewhere     int           // requests around the event in partitions that did not move
	elsewhereSlow int           // of these
	slowest       time.Duration // of these
}

// add adds an observation.
func (s *handOverSummary) add(o *observation) {
	s.rounds++
	s.ideal += o.ideal
	s.late = max(s.late, o.late)
	if s.failed == nil {
		s.failed = make(map[string]int)
	}
	var usual []time.Duration
	for _, x := range o.shots {
		if x.isUsual(o) {
			usual = append(usual, x.took)
		}
	}
	median, threshold := percentile(usual, 50), 3*percentile(usual, 99)+10*time.Millisecond
	s.threshold = max(s.threshold, threshold)
	for _, took := range usual {
		if took > threshold {
			s.usualSlow++
		}
	}
	s.usual = append(s.usual, usual...)

	worst := make([]time.Duration, len(o.before))
	for _, x := range o.shots {
		if !x.isAround(o) {
			continue
		}
		s.requests++
		if x.code != "" {
			s.failed[x.code]++
		} else if !x.answered {
			s.unanswered++
		}
		worst[x.partition] = max(worst[x.partition], x.took)
		if o.moved(x.partition) {
			continue
		}
		s.elsewhere++
		s.slowest = max(s.slowest, x.took)
		if x.took > threshold {
			s.elsewhereSlow++
		}
	}
	for p, was := range o.before {
		is, pause := o.after[p], max(0, worst[p]-median)
		if !o.moved(p) {
			s.lulls = append(s.lulls, pause)
			if was.Epoch != is.Epoch {
				s.claimed++
			}
			continue
		}
		s.moved++
		s.pauses = append(s.pauses, pause)
		if was.Holder != o.subject && is.Holder != o.subject {
			s.excess++
		}
	}
}

func (o *observation) moved(partition int) bool {
	return o.before[partition].Holder != o.after[partition].Holder
}

// isUsual reports whether x had its reply before the event.
func (x shot) isUsual(o *observation) bool {
	return x.answered && x.due >= o.warm && x.due+x.took < o.event
}

// isAround reports whether x was under way at the event, or was sent later.
func (x shot) isAround(o *observation) bool { return !x.answered || x.due+x.took >= o.event }

// failures returns how many requests failed around the events.
func (s *handOverSummary) failures() (n int) {
	for _, count := range s.failed {
		n += count
	}
	return n + s.unanswered
}

// percentile returns the least of some durations that p percent of them do not
// exceed, 0 where there is none.
func percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(rank, 1)-1]
}
