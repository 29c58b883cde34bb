package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/throttle"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// pingEvery and pingTimeout bound how long the loss of the database goes unnoticed
	// while there are no requests.
	pingEvery   = time.Second
	pingTimeout = 5 * time.Second

	// maxOutage is how long the database may be out of reach until the instance leaves
	// its partitions to members that can reach it.
	maxOutage = 6 * time.Second

	// refusedFor is how long the database must refuse new connections until it counts as
	// out of reach.
	refusedFor = 3 * time.Second

	// heartbeatsLost is for how many heartbeats of the broker the heartbeats to the members may
	// not come back.
	heartbeatsLost = 3

	// unreachableLogInterval is the minimum time between two log lines about one outage.
	unreachableLogInterval = 30 * time.Second

	// measureEvery is how often an instance measures its load and checks its state.
	measureEvery = time.Second
)

var errOutage = fmt.Errorf("the database has been out of reach for more than %v", maxOutage)

// watchDatabase pings the database until ctx is done. If the database is out of reach for
// longer than the options allow, watchDatabase returns a wait.ErrUnreachable. During a short
// outage, reads fail and writes wait. A longer one ends the session, so that members that
// reach the database can claim its partitions. A session goes on while the database only
// refuses new connections: other members are likely to be refused too.
func (i *Instance) watchDatabase(ctx context.Context) error {
	retrier := wait.Retrier{Insist: i.o.Insist}
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		since := time.Now() // when the database was last in reach
		log := throttle.New(i.o.Log, zap.WarnLevel, "database out of reach", unreachableLogInterval)
		err := retrier.Retry(ctx, func(err error) {
			log.Log(1, zap.Error(err))
			if i.stored.Load() {
				since = time.Now()
			} else if s := i.session.Load(); s != nil && time.Since(since) > maxOutage {
				s.fail(errOutage)
			}
		}, i.checkDatabase)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if !i.stored.Swap(false) {
				i.o.Store.Abort()
			}
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// checkDatabase finds out whether the database can be reached. That it has no room for a new
// connection may be over in a moment, and counts only if it lasts.
func (i *Instance) checkDatabase(ctx context.Context) error {
	for begun := time.Now(); ; {
		err := i.ping(ctx)
		if !errors.Is(err, wait.ErrNoNewConnection) || time.Since(begun) >= refusedFor || wait.For(ctx, pingEvery) != nil {
			return err
		}
	}
}

// ping pings the database and notes the result.
func (i *Instance) ping(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	err := i.o.Store.Ping(limited)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	refused := errors.Is(err, wait.ErrNoNewConnection)
	if err != nil {
		reason := err.Error()
		i.trouble.Store(&reason)
	}
	i.refused.Store(refused)
	i.stored.Store(err == nil || refused)
	return err
}

// notStored returns what the last failed ping has found, as an error that begins with text.
func (i *Instance) notStored(text string) error {
	if reason := i.trouble.Load(); reason != nil {
		text += ": " + *reason
	}
	return errors.New(text)
}

// watchSettled checks until ctx is done whether the instance serves the partitions that it
// should, and records the traffic.
func (i *Instance) watchSettled(ctx context.Context) {
	ticker := time.NewTicker(measureEvery)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			i.traffic.Record(now, i.metrics.DurationCounts)
			status, ok := i.status()
			switch {
			case !ok: // the next generation has not begun
			case status.Settled():
				i.unsettled.Store(0)
				if s := i.session.Load(); s != nil {
					s.noteSettled(status)
				}
			default:
				i.unsettled.CompareAndSwap(0, now.UnixNano())
			}
		case <-ctx.Done():
			return
		}
	}
}

// watch measures the load of a session and checks its health once per second, until the
// session has ended.
func (s *session) watch() {
	ticker := time.NewTicker(measureEvery)
	defer ticker.Stop()
	cpu := metrics.ProcessCPU()
	for last := time.Now(); ; {
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
		since := time.Since(last)
		last = last.Add(since)
		s.checkHealth()
		before := cpu
		cpu = metrics.ProcessCPU()
		checkPreference(s, last, (cpu-before).Seconds()/since.Seconds()/metrics.Processors())
		s.requests.Measure(since)
		s.slots.measure(since)
	}
}

// checkPreference has the shared queue consumed with another priority if the rate of its
// requests, or the state of this instance, has changed. cpu is the share of the processors that this
// process has used.
func checkPreference(s *session, now time.Time, cpu float64) {
	status, ok := s.coordinator.Status()
	if !ok || s.blocked.consuming.Load() { // a consumer cannot be replaced meanwhile
		return
	}
	able := s.ready() == nil && !s.blocked.any()
	if s.prefer.Tick(now, len(status.Ring), cpu, able) {
		s.running.Go(s.shared.Replace) // it waits for the broker
	}
	limitTurns(s)
}

// checkHealth ends the session if its own heartbeats do not come back: then the other
// members do not receive them either, and claim its partitions. It has
// requests that were forwarded to overdue partitions completed. While the broker
// blocks the consuming connection, no member receives heartbeats; while it blocks the
// forwarding one, nothing is confirmed.
func (s *session) checkHealth() {
	if s.blocked.forwarding.Load() {
		s.forwarder.resetDeadlines()
	}
	if s.blocked.consuming.Load() {
		s.heartbeat.note()
		if s.members != nil {
			s.members.ResetDeadlines()
		}
	} else if age, ok := s.heartbeat.last.Age(); ok && age > heartbeatsLost*s.o.Broker.Heartbeat {
		s.fail(errHeartbeatLost)
	}
	s.relay.Sweep()
	if s.forwarder.check() {
		s.fail(errForwardingStuck)
	}
}

// A heartbeat knows when a heartbeat of this instance last came back from the broker.
type heartbeat struct{ last wait.Moment }

func (h *heartbeat) note() { h.last.Set(time.Now()) }

// resetDeadlines begins all time limits anew. It is called while the broker blocks the
// connection, and so confirms nothing.
func (f *forwarder) resetDeadlines() {
	for _, l := range f.openLanes() {
		l.mu.Lock()
		l.since = time.Now()
		l.mu.Unlock()
		l.sending.Renew()
	}
}

// needsOperator reports whether the broker will go on to refuse this instance until its
// operator acts. If the instance has served before, the cause may be temporary.
func needsOperator(err error) bool {
	var setup *SetupError
	return errors.As(err, &setup) || broker.LoginRefused(err)
}

// stopCause returns the error for which the instance must end, nil if it was asked to.
func stopCause(ctx context.Context) error {
	cause := context.Cause(ctx)
	var stopped *StoppedError
	if errors.Is(cause, wait.ErrUnreachable) || errors.As(cause, &stopped) {
		return cause
	}
	return nil
}
