package cluster

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/coordinate"
	"github.com/glotpod/ident/cluster/internal/fairqueue"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/readlease"
	"github.com/glotpod/ident/cluster/internal/relay"
	"github.com/glotpod/ident/cluster/internal/sizes"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/throttle"
)

// A session is the work of an instance over three broker connections. The broker stops
// reading from a connection while a queue takes in too little of what comes over it, so
// nothing that must not wait for that queue may share the connection:
//
//   - The consuming one carries deliveries, acknowledgements, replies and heartbeats.
//   - The forwarding one carries requests that are forwarded to partition queues.
//   - That of the notifier carries what goes to the queues of subscribers.
//
// The loss of one of the first two ends the session. The notifier connects again.
type session struct {
	o           Options
	self        ownership.Member
	ready       func() error // why the instance is not ready
	look        func()       // looks whether the generation has ended
	coordinator coordinator
	cache       *actor.Cache     // nil: none
	conn        *amqp.Connection // the consuming one
	forwarding  *amqp.Connection

	shared    *consume.Keeper                    // of the shared queue
	prefer    *consume.Preference                // for its requests
	turns     *fairqueue.Queue[sender, *request] // of their callers
	relayed   atomic.Pointer[relayConsumer]      // nil: nothing is relayed to this instance
	replies   *broker.ReplyChecker
	sizes     *sizes.Checker // of messages
	notifier  *notify.Notifier
	forwarder *forwarder
	relay     *relay.Relay
	members   *membership.Membership
	repairer  *topology.Repairer
	channels  *consume.Pool
	slots     partitionSlots
	reads     *readlease.Renewer
	acks      *consume.AckFlusher

	ctx     context.Context // done when a connection is lost, or the session is closed
	cancel  context.CancelCauseFunc
	running sync.WaitGroup // goroutines
	bodies  *consume.Budget

	arrived   atomic.Bool // once, this session served all partitions that it should
	heartbeat heartbeat
	blocked   blockedConnections

	droppedReplies *throttle.Logger // replies to callers that cannot receive them
	nameless       *throttle.Logger // requests without the name of an operation
	malformed      *throttle.Logger // messages that no other instance has sent

	metrics  *metrics.Metrics
	requests metrics.Meter // received from the shared queue
}

// blockedConnections says which connections of a session the broker blocks.
type blockedConnections struct{ consuming, forwarding, notifications atomic.Bool }

func (b *blockedConnections) any() bool {
	return b.consuming.Load() || b.forwarding.Load() || b.notifications.Load()
}

// A coordinator is what a session uses of a [coordinate.Coordinator].
type coordinator interface {
	Attach(s coordinate.Executor, number int64)
	Detach(coordinate.Executor)
	SetBlocked(s coordinate.Executor, blocked bool)
	Post(...ownership.Event)
	EndLease(h ownership.HandOver, done func())
	SinceClaim(partition int) time.Duration
	Status() (status ownership.Status, ok bool)
	Left() <-chan struct{}
}

var (
	errSessionClosed = errors.New("the session is closed")
	errHeartbeatLost = errors.New("heartbeats do not come back")
)

// fail ends the session because of err, unless it has ended already.
func (s *session) fail(err error) { s.cancel(err) }

// failWhenLost ends the session when a channel or the connection is lost.
func (s *session) failWhenLost(closed <-chan *amqp.Error) {
	s.running.Go(func() {
		select {
		case cause := <-closed:
			s.fail(consume.LostError(cause))
		case <-s.ctx.Done():
		}
	})
}

// run serves until ctx is done, then hands over its partitions and completes the requests
// that were received. If the session is lost, run returns why.
func (s *session) run(ctx context.Context, onServing func()) error {
	s.running.Go(func() { s.notifier.Run(s.ctx) })
	s.running.Go(func() { s.acks.Run(s.ctx) })
	s.running.Go(func() { s.turns.Run(s.ctx) })
	s.running.Go(func() { s.repairer.Run(s.ctx) })
	s.running.Go(func() { s.reads.Run(s.ctx) })
	s.heartbeat.note()
	s.running.Go(s.watch)
	s.o.Store.SetNotificationSink(s.notifier)
	s.o.Store.SetNotificationCheck(s.sizes.AcceptsNotification)
	s.running.Go(s.sizes.Start)
	s.coordinator.Attach(s, s.self.Incarnation.Session)

	err := s.consumeShared(ctx, onServing)
	if err == nil && stopCause(ctx) == nil {
		s.drain(errors.Is(context.Cause(ctx), errGenerationEnds))
	}
	s.close()
	return err
}

const (
	// settleFor is how long an instance waits for its first partitions before it consumes
	// the shared queue: without them it would forward most requests.
	settleFor   = 3 * time.Second
	settleEvery = 10 * time.Millisecond
)

// consumeShared receives requests from the shared queue until ctx is done, and then
// returns nil, or until the session is lost. It calls onServing when it starts. That the
// queue cannot be consumed costs its requests alone.
func (s *session) consumeShared(ctx context.Context, onServing func()) (err error) {
	for begun := time.Now(); !s.checkSettled() && time.Since(begun) < settleFor; {
		select {
		case <-time.After(settleEvery):
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-ctx.Done():
			return nil
		}
	}
	s.shared.Start(s.ctx, &s.running)
	onServing()
	select {
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-ctx.Done():
		return nil
	}
}

// sharedLostEvery is how often it is logged at most that the shared queue is not consumed.
const sharedLostEvery = 10 * time.Second

// newSharedKeeper returns what consumes the shared queue.
func newSharedKeeper(s *session) *consume.Keeper {
	lost := throttle.New(s.o.Log, zap.ErrorLevel, "shared queue not consumed", sharedLostEvery)
	bodies := consume.RoomFor(s.o.Prefetch) // the prefetch count because of the size of the bodies
	return consume.NewKeeper(consume.KeeperOptions{
		Open: func() (*consume.Consumer, error) {
			priority, prefetch := s.prefer.Consumer()
			prefetch = min(prefetch, bodies)
			s.turns.SetRoom(prefetch)
			limitTurns(s)
			consumer, err := consume.Open(consume.Over(s.conn), RequestQueue, prefetch)
			if err != nil {
				return nil, err
			}
			return consumer, consumer.StartShared(priority)
		},
		Receive: func(c *consume.Consumer) (again bool) {
			next := s.receive(s.ctx, c, nil)
			if next > 0 {
				logPrefetch(s.o.Log, RequestQueue, next)
				bodies = next
			}
			return next > 0
		},
		OnLost: func(err error) {
			if s.conn.IsClosed() {
				return // the session is about to end
			}
			lost.Log(1, zap.Error(err))
			s.sizes.NoteLost(err)
			if broker.IsCode(err, amqp.NotFound) {
				s.repairer.ReportMissing(RequestQueue)
			}
		},
		OnFound: func() { s.o.Log.Info("shared queue consumed again") },
	})
}

// checkSettled reports whether the instance serves the partitions that it should.
func (s *session) checkSettled() bool {
	status, ok := s.coordinator.Status()
	return ok && s.noteSettled(status)
}

// noteSettled notes and reports whether the instance serves the partitions that it
// should: those that the hash ring assigns to it, or none if it is drained.
func (s *session) noteSettled(status ownership.Status) bool {
	settled := status.Self == s.self && status.Settled() && (status.State == ownership.Ready || status.State == ownership.Draining)
	if settled {
		s.arrived.Store(true)
	}
	return settled
}

// drain stops receiving requests, hands the partitions over, and waits until the
// requests that were received are complete and their notifications confirmed. If that
// takes longer than the grace period, the broker delivers the remaining requests again.
// generationEnds says that all instances do so, and that this one goes on after that.
func (s *session) drain(generationEnds bool) {
	s.o.Log.Info("draining")
	grace := s.o.Grace
	if generationEnds {
		grace = min(grace, switchGrace)
	}
	deadline := time.After(grace)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		s.finish(generationEnds)
	}()
	select {
	case <-finished:
		return
	case <-deadline:
		s.o.Log.Warn("not all requests completed in time; the broker delivers them to other instances", zap.Duration("grace", grace))
	case <-s.ctx.Done():
		s.o.Log.Warn("connection lost while draining", zap.Error(context.Cause(s.ctx)))
	}
	s.fail(errSessionClosed)
	if !generationEnds {
		s.o.Store.Abort()
	}
	closeAll(time.Now().Add(closeTimeout), s.conn, s.forwarding) // which ends the consumers
	<-finished
}

// finish is drain without a time limit. It returns early if the session is lost.
func (s *session) finish(generationEnds bool) {
	// The requests from the shared queue come first, while the partitions are still
	// served here: so none of them has to be forwarded.
	s.drainShared()
	s.coordinator.Post(ownership.LeaveRequested{AtOnce: generationEnds})
	select {
	case <-s.coordinator.Left():
	case <-s.ctx.Done():
		return
	}
	s.members.Flush(s.ctx)
	flushing, cancel := context.WithTimeout(s.ctx, closeTimeout)
	defer cancel()
	s.relay.Flush(flushing)
}

// drainShared stops receiving requests from the shared queue, and waits until those that
// were begun are complete and acknowledged, or the session has ended. Other instances get those that
// were not begun.
func (s *session) drainShared() {
	drained := make(chan struct{})
	s.running.Go(func() {
		defer close(drained)
		s.shared.Stop()
		putBackAll(s.turns.Close())
		s.shared.Drain()
	})
	select {
	case <-drained:
	case <-s.ctx.Done():
	}
}

// close ends the session. Requests in flight were not acknowledged, and are delivered
// again: close does not wait for their replies.
func (s *session) close() {
	s.fail(errSessionClosed)
	closeAll(time.Now().Add(closeTimeout), s.conn, s.forwarding)
	putBackAll(s.turns.Close())
	s.coordinator.Detach(s) // which abandons the partitions
	s.o.Store.SetNotificationSink(nil)
	s.o.Store.SetNotificationCheck(nil)
	if s.members != nil {
		s.members.Close()
	}
	if s.relay != nil {
		s.relay.Close()
	}
	s.running.Wait()
}
