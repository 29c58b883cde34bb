package cluster

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/ownership"
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

	// measureEvery is how often an instance measures its load and checks its state.
	measureEvery = time.Second
)

var errOutage = fmt.Errorf("the database has been out of reach for more than %v", maxOutage)

// watchDatabase pings the database until ctx is done. If the database is out of reach for
// longer than the options allow, watchDatabase returns a wait.ErrUnreachable. During a short
// outage, reads fail and writes wait. A longer one ends the session, so that members that
// reach the database can claim its partitions.
func (i *Instance) watchDatabase(ctx context.Context) error {
	retrier := wait.Retrier{Insist: i.o.Insist}
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		begun := time.Now()
		err := retrier.Retry(ctx, func(err error) {
			i.stored.Store(false)
			i.o.Log.Warn("database out of reach", zap.Error(err))
			if s := i.session.Load(); s != nil && time.Since(begun) > maxOutage {
				s.fail(errOutage)
			}
		}, i.ping)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			i.stored.Store(false)
			i.o.Store.Abort()
			return err
		}
		i.stored.Store(true)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (i *Instance) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return i.o.Store.Ping(ctx)
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
			status, ok := i.coordinator.Status()
			switch {
			case !ok:
				return
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
	for last := time.Now(); ; {
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
		since := time.Since(last)
		last = last.Add(since)
		s.checkHealth()
		s.requests.Measure(since)
		s.slots.measure(since)
	}
}

// checkHealth ends the session if its own heartbeats do not come back: then the other
// members do not receive them either, and are about to claim its partitions. It has
// requests that were forwarded to overdue partitions completed. While the broker
// blocks the consuming connection, no member receives heartbeats; while it blocks the
// publishing one, nothing is confirmed.
func (s *session) checkHealth() {
	if s.blocked.publishing.Load() {
		s.forwarder.resetDeadlines()
	}
	if s.blocked.consuming.Load() {
		s.heartbeat.note()
	} else if s.heartbeat.age() > ownership.SuspectAfter(s.o.Broker.Heartbeat)-measureEvery {
		s.fail(errHeartbeatLost)
	}
	s.forwarder.check()
}

// A heartbeat knows when a heartbeat of this instance last came back from the broker.
type heartbeat struct {
	last atomic.Int64 // in Unix nanoseconds
}

func (h *heartbeat) note() { h.last.Store(time.Now().UnixNano()) }

func (h *heartbeat) age() time.Duration { return time.Since(time.Unix(0, h.last.Load())) }
