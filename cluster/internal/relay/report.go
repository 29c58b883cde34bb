package relay

import (
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// An Outcome is what became of a request that another instance has relayed.
type Outcome uint8

const (
	Done       Outcome = iota // the caller has the reply
	DoneUrgent                // the same, of a request that must not be delivered again
	Returned                  // the request alone is to go to the partition's queue; no other one depends on it
	Refused                   // the instance does not serve the partition any more, or has lost an earlier request
	Busy                      // the instance has no room for the request
)

// Report tells another instance what became of its request.
func (r *Relay) Report(to partition.Member, number int64, o Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.accepted, acceptedKey{to, number})
	if r.closed {
		return
	}
	l := r.laneLocked(to)
	report := &l.waiting.report
	switch o {
	case Done:
		report.Done = append(report.Done, number)
		if len(report.Done) == 1 {
			time.AfterFunc(reportDelay, func() { r.kick(l) })
		}
		if len(report.Done) < maxBatch {
			return
		}
	case DoneUrgent:
		report.Done = append(report.Done, number)
	case Returned:
		report.Returned = append(report.Returned, number)
	case Refused:
		report.Refused = append(report.Refused, number)
	case Busy:
		report.Busy = append(report.Busy, number)
	}
	l.kickLocked(r)
}

func (r *Relay) kick(l *lane) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.kickLocked(r)
}

// receiveReport handles what another instance says about requests and asks of this one.
func (r *Relay) receiveReport(m *message) {
	var complete []Forward
	r.mu.Lock()
	for _, n := range m.report.Done {
		if x := r.takeLocked(m.from, n); x != nil {
			complete = append(complete, x.forward)
		}
	}
	for _, n := range m.report.Returned {
		if x := r.takeLocked(m.from, n); x != nil {
			r.queueLocked(x.route, x.forward)
		}
	}
	for _, n := range m.report.Working {
		if x := r.sentLocked(m.from, n); x != nil {
			x.heard = time.Now()
		}
	}
	for _, n := range m.report.Refused {
		if x := r.sentLocked(m.from, n); x != nil {
			r.setQueuedLocked(x.route, false)
		}
	}
	for _, n := range m.report.Busy {
		if x := r.sentLocked(m.from, n); x != nil {
			r.setQueuedLocked(x.route, true)
		}
	}
	for _, a := range m.answers {
		r.answeredLocked(m.from, a)
	}
	r.mu.Unlock()
	for _, f := range complete {
		f.Complete()
	}
}

// takeLocked is sentLocked for a request that is not relayed any more from now on.
func (r *Relay) takeLocked(to partition.Member, number int64) *relayed {
	x := r.sentLocked(to, number)
	if x == nil {
		return nil
	}
	r.removeLocked(x)
	if i := slices.Index(x.route.relayed, x); i >= 0 {
		x.route.relayed = slices.Delete(x.route.relayed, i, i+1)
	}
	return x
}

// sentLocked returns the request with a number, if it was relayed to an instance.
func (r *Relay) sentLocked(to partition.Member, number int64) *relayed {
	if x := r.sent[number]; x != nil && x.lane.to == to {
		return x
	}
	return nil
}
