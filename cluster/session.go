package cluster

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
)

// A session is what an instance does over one connection.
type session struct {
	o           Options
	self        ownership.Member
	coordinator *coordinator
	cache       *actor.Cache // nil: none
	conn        *amqp.Connection

	shared   *consume.Consumer
	quiet    chan struct{} // closed when no more is taken from the shared queue
	replies  *broker.ReplyChecker
	notifier *notify.Notifier
	hops     *hops
	members  *membership.Membership
	repairer *topology.Repairer
	channels *consume.Pool
	slots    []*slot // by partition

	ctx     context.Context // done when the connection is lost, or the session is over
	end     context.CancelCauseFunc
	running sync.WaitGroup      // goroutines
	bodies  *semaphore.Weighted // bytes of the bodies of requests that are being carried out

	unacknowledged *batchqueue.Queue[*consume.Consumer] // those on which something waits to be acknowledged

	arrived atomic.Bool  // all that the instance should own was once owned
	heard   atomic.Int64 // when a heartbeat of our own last came back, in Unix nanoseconds
	blocked atomic.Bool  // the broker takes nothing in

	dropped tally // answers to callers who cannot be answered

	metrics *metrics
	taken   meter // from the shared queue
}

var errOver = errors.New("the session is over")

var errUnheard = errors.New("heartbeats do not come back")

// checkHeard ends the session before the others, who do not hear of it either,
// believe it dead and take its partitions.
func (s *session) checkHeard(suspectAfter time.Duration) {
	heard := time.Unix(0, s.heard.Load())
	if s.blocked.Load() {
		s.heard.Store(time.Now().UnixNano()) // nobody hears of anybody
	} else if time.Since(heard) > suspectAfter-measureEvery {
		s.fail(errUnheard)
	}
}

// fail ends the session, unless it is over already.
func (s *session) fail(why error) { s.end(why) }

// watch ends the session when a channel or the connection is lost.
func (s *session) watch(closed <-chan *amqp.Error) {
	s.running.Go(func() {
		select {
		case cause := <-closed:
			s.fail(consume.LostError(cause))
		case <-s.ctx.Done():
		}
	})
}

// holds reports whether a partition's notifications are this session's to send.
func (s *session) holds(partition int) bool {
	h := s.slots[partition].live.Load()
	return h != nil && h.ctx.Err() == nil && !h.finishing.Load()
}

// run serves until ctx is done, then hands over and finishes what was taken; or
// until the session is lost, which is the error.
func (s *session) run(ctx context.Context, serving func()) error {
	s.running.Go(func() { s.notifier.Run(s.ctx) })
	s.running.Go(s.finishHops)
	s.running.Go(s.flushAcks)
	s.running.Go(func() { s.repairer.Run(s.ctx) })
	s.heard.Store(time.Now().UnixNano())
	s.running.Go(s.measure)
	s.o.Store.SetNotificationSink(s.notifier.Send)
	s.coordinator.attach(s, s.self.Incarnation.Session)

	err := s.serve(ctx, serving)
	if err == nil && failure(ctx) == nil {
		s.drain()
	}
	s.close()
	return err
}

const (
	// settleFor is how long an instance waits for its first partitions before
	// it takes requests for others.
	settleFor   = 3 * time.Second
	settleEvery = 10 * time.Millisecond
)

// serve takes requests from the shared queue until ctx is done (nil) or the
// session is lost.
func (s *session) serve(ctx context.Context, serving func()) (err error) {
	for begun := time.Now(); !s.isSettled() && time.Since(begun) < settleFor; {
		select {
		case <-time.After(settleEvery):
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-ctx.Done():
			return nil
		}
	}
	l, err := consume.Open(consume.Over(s.conn), RequestQueue, s.o.Prefetch)
	if err != nil {
		return err
	}
	if err := l.Start(false); err != nil {
		return err
	}
	s.shared = l
	s.quiet = make(chan struct{})
	s.running.Go(func() {
		defer close(s.quiet)
		s.take(s.ctx, s.shared, nil)
		if ctx.Err() == nil {
			s.fail(s.shared.EndCause()) // unless it has failed for another reason
		}
	})
	serving()
	select {
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-ctx.Done():
		return nil
	}
}

// isSettled asks whether the instance has what it should.
func (s *session) isSettled() bool {
	status, ok := s.coordinator.look()
	return ok && s.settled(status)
}

// settled notes whether the instance has what it should: what the ring that it counts
// in gives to it, or nothing, if it is drained.
func (s *session) settled(status ownership.Status) bool {
	settled := status.Self == s.self && status.Settled() && (status.State == ownership.Ready || status.State == ownership.Draining)
	if settled {
		s.arrived.Store(true)
	}
	return settled
}

// drain hands the partitions over, takes no more requests, and waits until
// those that were taken are answered, and their notifications sent.
func (s *session) drain() {
	s.o.Log.Info("draining")
	deadline := time.After(s.o.Grace)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		// First what came by the shared queue, while the partitions are here:
		// then none of it has to be passed on.
		if s.shared != nil {
			if s.shared.Cancel() != nil {
				return // lost: what was taken comes again
			}
			<-s.quiet
			s.awaitCalls(s.shared)
		}
		s.coordinator.tell(ownership.LeaveRequested{})
		select {
		case <-s.coordinator.left:
		case <-s.ctx.Done():
			return
		}
		s.notifier.Finish(s.ctx)
		s.members.Flush(s.ctx)
	}()
	select {
	case <-finished:
		return
	case <-deadline:
		s.o.Log.Warn("not all requests were answered in time; the broker gives them to others", zap.Duration("grace", s.o.Grace))
	case <-s.ctx.Done():
		s.o.Log.Warn("connection lost while draining", zap.Error(context.Cause(s.ctx)))
	}
	s.fail(errOver)
	s.o.Store.Abort()
	s.conn.CloseDeadline(time.Now().Add(time.Second)) // ends the consumers, too
	<-finished
}

// flushAcks acknowledges what has waited for long enough.
func (s *session) flushAcks() {
	for s.unacknowledged.Wait(s.ctx) {
		select {
		case <-time.After(consume.AckDelay):
		case <-s.ctx.Done():
			return // what was answered comes again
		}
		for _, l := range s.unacknowledged.Take() {
			l.FlushAcks() // on an error the channel is closed
		}
	}
}

// awaitCalls waits until the calls of a line, of which nothing more is taken,
// have ended and are acknowledged, or the session is over.
func (s *session) awaitCalls(l *consume.Consumer) {
	ended := make(chan struct{})
	s.running.Go(func() {
		defer close(ended)
		l.Requests.Wait()
		l.FlushAcks()
	})
	select {
	case <-ended:
	case <-s.ctx.Done():
	}
}

// close ends the session. What is still under way was not acknowledged, and
// comes again; nobody waits for it.
func (s *session) close() {
	s.fail(errOver)
	s.conn.CloseDeadline(time.Now().Add(time.Second))
	s.coordinator.detach(s) // abandons the partitions
	s.o.Store.SetNotificationSink(nil)
	if s.members != nil {
		s.members.Close()
	}
	s.running.Wait()
	if s.shared != nil {
		s.shared.Requests.Wait()
	}
}
