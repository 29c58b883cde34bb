package cluster

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
)

// A tally counts what is to be told now and then, and not each time.
type tally struct {
	n    atomic.Int64
	told atomic.Int64 // when, in Unix nanoseconds
}

// tellEvery is how often a tally is told at most.
const tellEvery = 10 * time.Second

// count returns how many there were since it was last told, if it is time to tell
// of them; 0 otherwise.
func (t *tally) count() int64 {
	t.n.Add(1)
	now, told := time.Now().UnixNano(), t.told.Load()
	if now-told < int64(tellEvery) || !t.told.CompareAndSwap(told, now) {
		return 0
	}
	return t.n.Swap(0)
}

// A meter measures how often something happens. Any number of goroutines may
// count, one measures.
type meter struct {
	total atomic.Int64
	last  int64         // only measure's
	rate  atomic.Uint64 // per second, as the bits of a float64
}

const (
	measureEvery = time.Second

	// memory is how much of a rate is what it was before, so that it follows
	// within some seconds and does not jump.
	memory = 0.7
)

func (m *meter) count() { m.total.Add(1) }

func (m *meter) perSecond() float64 { return math.Float64frombits(m.rate.Load()) }

func (m *meter) measure(since time.Duration) {
	total := m.total.Load()
	now := float64(total-m.last) / since.Seconds()
	m.last = total
	m.rate.Store(math.Float64bits(memory*m.perSecond() + (1-memory)*now))
}

// measure measures how many requests come, until the session is over.
func (s *session) measure() {
	ticker := time.NewTicker(measureEvery)
	defer ticker.Stop()
	for last := time.Now(); ; {
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
		since := time.Since(last)
		last = last.Add(since)
		s.checkHeard(suspectAfter(s.o))
		s.taken.measure(since)
		if s.blocked.Load() {
			s.hops.excuse()
		}
		for _, c := range s.hops.stuck() {
			c.fail(errStuck)
		}
		for _, x := range s.slots {
			if h := x.live.Load(); h != nil {
				h.taken.measure(since)
			}
		}
	}
}

// report says how things are with the instance.
func (s *session) report(i *Instance) membership.Report {
	status, _ := s.coordinator.look() // it runs for longer than any session
	r := membership.NewReport(status)
	r.Version, r.StartedAt = s.o.Version, i.started
	r.Parameters = membership.Parameters{Partitions: s.o.Partitions, TableVersion: ownership.TableVersion, QueueType: s.o.QueueType}
	for n := range r.Partitions {
		p := &r.Partitions[n]
		if h := s.slots[p.Partition].live.Load(); h != nil {
			p.RequestsPerSecond = h.taken.perSecond()
		}
	}
	r.SharedRequestsPerSecond = s.taken.perSecond()
	if s.cache != nil {
		r.CachedUsers = s.cache.Len()
	}
	r.Counters = membership.Counters{
		Forwarded: count(s.metrics.forwarded),
		Misrouted: count(s.metrics.misrouted),
		Fenced:    count(s.metrics.fenced),

		DatabaseRoundTrips: s.o.Store.RoundTrips(),
	}
	r.Problems = i.problems(s)
	r.Traffic = i.traffic.report()
	return r
}

// problems says in words what is wrong with the instance.
func (i *Instance) problems(s *session) (problems []string) {
	if err := i.Ready(); err != nil && !i.ending.Load() {
		problems = append(problems, err.Error())
	}
	if s.blocked.Load() {
		problems = append(problems, "RabbitMQ takes nothing in, as it is short of memory or disk space")
	}
	if i.cache != nil && i.served.Load() && !i.cache.Trusted() {
		problems = append(problems, "users are read from the database each time, as another program writes to it, or none is heard")
	}
	if _, heldBack := s.notifier.Backlog(); heldBack > 0 {
		problems = append(problems, fmt.Sprintf("notifications of %d users are held back, as a subscriber's queue takes no more, or no key opens one of them", heldBack))
	}
	return problems
}
