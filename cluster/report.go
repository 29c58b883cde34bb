package cluster

import (
	"fmt"
	"time"

	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
)

// watch measures the load of a session and checks its health once per second, until the
// session has ended.
func (s *session) watch() {
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
		s.checkHeartbeat(suspectAfter(s.o))
		s.checkForwards()
		s.requests.Measure(since)
		for _, x := range s.slots {
			if p := x.serving.Load(); p != nil {
				p.requests.Measure(since)
			}
		}
	}
}

// checkHeartbeat ends the session if its own heartbeats do not come back: then the other
// members do not receive them either, and are about to claim its partitions.
func (s *session) checkHeartbeat(suspectAfter time.Duration) {
	last := time.Unix(0, s.lastHeartbeat.Load())
	if s.blocked.Load() {
		s.lastHeartbeat.Store(time.Now().UnixNano()) // no member receives heartbeats
	} else if time.Since(last) > suspectAfter-measureEvery {
		s.fail(errHeartbeatLost)
	}
}

// checkForwards replies with an error to requests that were forwarded to overdue
// partitions.
func (s *session) checkForwards() {
	if s.blocked.Load() {
		s.forwarder.resetDeadlines()
	}
	for _, r := range s.forwarder.overdue() {
		r.replyError(errPartitionOverdue)
	}
}

// report returns what the status of the cluster shows about this instance.
func (i *Instance) report(s *session) membership.Report {
	status, _ := s.coordinator.Status() // the coordinator runs longer than any session
	r := membership.NewReport(status)
	r.Version, r.StartedAt = s.o.Version, i.started
	r.Parameters = membership.Parameters{Partitions: s.o.Partitions, TableVersion: ownership.TableVersion, QueueType: s.o.QueueType}
	for n := range r.Partitions {
		p := &r.Partitions[n]
		if served := s.slots[p.Partition].serving.Load(); served != nil {
			p.RequestsPerSecond = served.requests.PerSecond()
		}
	}
	r.SharedRequestsPerSecond = s.requests.PerSecond()
	if s.cache != nil {
		r.CachedUsers = s.cache.Len()
	}
	r.Counters = membership.Counters{
		Forwarded: metrics.Count(s.metrics.Forwarded),
		Misrouted: metrics.Count(s.metrics.Misrouted),
		Fenced:    metrics.Count(s.metrics.Fenced),

		DatabaseRoundTrips: s.o.Store.RoundTrips(),
	}
	r.Problems = i.problems(s)
	r.Traffic = i.traffic.Report()
	return r
}

// problems describes what is wrong with the instance.
func (i *Instance) problems(s *session) (problems []string) {
	if err := i.Ready(); err != nil && !i.stopping.Load() {
		problems = append(problems, err.Error())
	}
	if s.blocked.Load() {
		problems = append(problems, "RabbitMQ blocks publishing, since it is short of memory or disk space")
	}
	if i.cache != nil && i.served.Load() && !i.cache.Trusted() {
		problems = append(problems, "users are read from the database each time, since another program writes to it or may do so unnoticed")
	}
	if _, heldBack := s.notifier.Backlog(); heldBack > 0 {
		problems = append(problems, fmt.Sprintf("notifications of %d users are held back: a subscriber's queue takes no more, or no key opens one of them", heldBack))
	}
	return problems
}
