package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A holding is a partition that this instance holds under a lease: its queue is
// consumed, and its users' actors take requests from there and from the router.
type holding struct {
	ctx      context.Context // done when the partition is abandoned, or has been handed over
	end      context.CancelFunc
	lease    partition.Lease
	consumer *consume.Consumer
	users    *actor.Partition
	taken    meter // from the line

	overflow overflow // from the mailboxes into the queue

	finishing atomic.Bool   // the consumer is being ended on purpose
	ended     chan struct{} // closed when no more is taken from the line
}

// A slot carries out what is commanded about one partition, one after another.
type slot struct {
	held atomic.Pointer[holding] // takes requests from the router
	live atomic.Pointer[holding] // is consumed, or is being handed over

	mu     sync.Mutex // guards the following fields
	todo   []func()
	busy   bool
	cancel context.CancelFunc // ends what is done under the latest lease
}

// then does f after all that is to be done about the partition already.
func (s *session) then(x *slot, f func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.todo = append(x.todo, f)
	if x.busy {
		return
	}
	x.busy = true
	s.running.Go(func() {
		for {
			x.mu.Lock()
			if len(x.todo) == 0 {
				x.busy = false
				x.mu.Unlock()
				return
			}
			next := x.todo[0]
			x.todo = x.todo[1:]
			x.mu.Unlock()
			next()
		}
	})
}

// do has a command of the ownership logic carried out.
func (s *session) do(command ownership.Command) {
	switch command := command.(type) {
	case ownership.Broadcast:
		s.members.Broadcast(command.Message)
	case ownership.Send:
		s.members.Send(command.To, command.Message)
	case ownership.Probe:
		s.members.Probe(command.Member)
	case ownership.Consume:
		x := s.slots[command.Partition]
		ctx, cancel := context.WithCancel(s.ctx)
		x.mu.Lock()
		x.cancel = cancel
		x.mu.Unlock()
		s.then(x, func() {
			s.consume(ctx, cancel, x, partition.Lease{Partition: command.Partition, Epoch: command.Epoch})
		})
	case ownership.HandOver:
		x := s.slots[command.Partition]
		s.then(x, func() { s.handOver(x, command) })
	case ownership.Abandon:
		s.abandon(s.slots[command.Partition])
	case ownership.Reconnect:
		s.fail(fmt.Errorf("%w: %s", errAnew, command.Reason))
	}
}

func (s *session) lostLease(lease partition.Lease) {
	s.coordinator.tell(ownership.LeaseLost{Partition: lease.Partition, Epoch: lease.Epoch})
}

// consume begins to serve a partition.
func (s *session) consume(ctx context.Context, cancel context.CancelFunc, x *slot, lease partition.Lease) {
	h, err := s.hold(ctx, lease)
	if err != nil {
		defer cancel()
		if ctx.Err() == nil {
			s.o.Log.Warn("partition not consumed", zap.Int("partition", lease.Partition), zap.Error(err))
			s.lostLease(lease)
		}
		return
	}
	h.end = cancel
	x.live.Store(h)
	x.held.Store(h)
	if ctx.Err() != nil { // abandoned meanwhile
		h.users.Drain(done)
		x.held.Store(nil)
	}
	s.running.Go(func() {
		defer close(h.ended)
		s.take(ctx, h.consumer, h)
		if ctx.Err() == nil && !h.finishing.Load() {
			s.o.Log.Warn("partition's consumer ended", zap.Int("partition", lease.Partition), zap.Error(h.consumer.EndCause()))
			s.lostLease(lease)
		}
	})
	after := s.coordinator.sinceClaim(lease.Partition)
	s.metrics.takeOvers.Observe(after.Seconds())
	s.o.Log.Debug("partition taken over", zap.Int("partition", lease.Partition), zap.Duration("after", after))
	s.coordinator.tell(ownership.Consuming(lease))
}

const (
	// consumeFor is how long it is tried to consume a queue that somebody else
	// still consumes, whom the broker has not dropped yet, or that is missing.
	consumeFor   = 2 * time.Second
	consumeEvery = 50 * time.Millisecond

	// answerWithin is how long the broker may take until that is told.
	answerWithin = 10 * time.Second
)

var errNoAnswer = errors.New("the broker has not answered yet: the queue may be without a leader")

// hold consumes the queue of a partition, once it is certain that the lease is not over
// already, whoever has granted it, and the notifications that an earlier owner has left
// are sent.
func (s *session) hold(ctx context.Context, lease partition.Lease) (*holding, error) {
	queue := PartitionQueue(lease.Partition)
	var l *consume.Consumer
	var opening errgroup.Group
	opening.Go(func() (err error) { // meanwhile
		l, err = s.channels.Get(queue)
		return err
	})
	told := s.notifier.CatchUp(ctx, lease)
	if err := opening.Wait(); err != nil {
		return nil, err
	}
	if told != nil {
		s.channels.Put(l)
		return nil, fmt.Errorf("taking over what was left: %w", told)
	}
	slow := time.AfterFunc(answerWithin, func() {
		s.o.Log.Warn("partition not consumed", zap.Int("partition", lease.Partition), zap.Error(errNoAnswer))
	})
	defer slow.Stop()
	for begun := time.Now(); ; {
		err := l.Start(s.o.QueueType == topology.Classic)
		if err == nil {
			break
		}
		if topology.IsCode(err, amqp.NotFound) {
			s.repairer.ReportMissing()
		} else if !topology.IsCode(err, amqp.AccessRefused) {
			return nil, err
		}
		if time.Since(begun) > consumeFor {
			return nil, err
		}
		select {
		case <-time.After(consumeEvery):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if l, err = s.channels.Get(queue); err != nil {
			return nil, err
		}
	}
	return &holding{
		ctx:      ctx,
		lease:    lease,
		consumer: l,
		users: actor.NewPartition(actor.PartitionOptions{
			Store:   s.o.Store,
			Lease:   lease,
			Mailbox: s.o.Mailbox,
			Cache:   s.cache,
			Fenced:  func() { s.fenced(lease) },
		}),
		ended: make(chan struct{}),
	}, nil
}

// handOver ends serving a partition in order: what was delivered is finished,
// and told to the world, before the lease ends.
func (s *session) handOver(x *slot, command ownership.HandOver) {
	lease := partition.Lease{Partition: command.Partition, Epoch: command.Epoch}
	h := x.live.Load()
	if h == nil || h.lease != lease || h.ctx.Err() != nil {
		return // it is abandoned
	}
	begun := time.Now()
	h.finishing.Store(true)
	x.held.Store(nil)
	if err := h.consumer.Cancel(); err != nil {
		s.lostLease(lease)
		return
	}
	finished := make(chan struct{})
	s.running.Go(func() {
		defer close(finished)
		<-h.ended
		h.consumer.Requests.Wait()
	})
	select {
	case <-finished:
	case <-h.ctx.Done():
		return
	}
	if h.users.Drain(h.ctx) != nil || s.notifier.Flush(h.ctx, lease.Partition) != nil {
		return
	}
	s.channels.Put(h.consumer)
	x.live.Store(nil)
	h.end()
	s.coordinator.end(command, func() {
		after := time.Since(begun)
		s.metrics.handOvers.Observe(after.Seconds())
		s.o.Log.Debug("partition handed over", zap.Int("partition", lease.Partition), zap.Duration("after", after))
	})
}

// abandon ends serving a partition at once. Nothing is read from its users'
// state any more when abandon has returned; that its channel is closed, and what was not
// acknowledged goes back to the broker, follows.
func (s *session) abandon(x *slot) {
	x.mu.Lock()
	if x.cancel != nil {
		x.cancel()
	}
	x.mu.Unlock()
	x.held.Store(nil)
	if h := x.live.Load(); h != nil {
		h.users.Drain(done) // takes no more
	}
	s.then(x, func() {
		h := x.live.Swap(nil)
		if h == nil {
			return
		}
		s.metrics.lost.Inc()
		h.consumer.Close()
		s.running.Go(func() {
			h.users.Stop()
			<-h.ended
			h.consumer.Requests.Wait()
		})
	})
}

// done is a context that is done.
var done = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
