package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// consumeFor is how long consuming a queue is tried while it is missing, or while
	// the broker has not yet dropped its last consumer.
	consumeFor   = 2 * time.Second
	consumeEvery = 50 * time.Millisecond

	// slowConsume is how long the broker may take to start a consumer until that is
	// logged.
	slowConsume = 10 * time.Second
)

var errNoAnswer = errors.New("the broker has not answered yet: the queue may be without a leader")

// StartServing starts to serve a partition. It does not wait for that.
func (s *session) StartServing(command ownership.Consume) {
	lease := command.Lease
	x := s.slots[lease.Partition]
	ctx, cancel := context.WithCancel(s.ctx)
	x.setCancel(cancel)
	x.enqueue(&s.running, func() {
		p, err := s.openPartition(ctx, command)
		if err != nil {
			defer cancel()
			s.notifier.Abandon(lease)
			if ctx.Err() == nil {
				s.o.Log.Warn("partition not consumed", zap.Int("partition", lease.Partition), zap.Error(err))
				s.reportLost(lease)
			}
			return
		}
		p.cancel = cancel
		s.serve(x, p)
	})
}

// serve receives the requests of a partition that was opened.
func (s *session) serve(x *partitionSlot, p *servedPartition) {
	x.serving.Store(p)
	x.accepting.Store(p)
	if p.ctx.Err() != nil { // it was abandoned in the meantime
		p.users.Drain(canceled)
		x.accepting.Store(nil)
	}
	p.receive(s, x)
	after := s.coordinator.SinceClaim(p.lease.Partition)
	s.metrics.TakeOvers.Observe(after.Seconds())
	s.o.Log.Debug("partition taken over", zap.Int("partition", p.lease.Partition), zap.Duration("after", after))
	s.coordinator.Post(ownership.Consuming{Partition: p.lease.Partition, Epoch: p.lease.Epoch})
}

// receive receives the requests of the partition's consumer.
func (p *servedPartition) receive(s *session, x *partitionSlot) {
	consumer, received := p.consumer, p.received
	s.running.Go(func() {
		defer close(received)
		next := s.receive(p.ctx, consumer, p)
		switch {
		case p.ctx.Err() != nil || p.handingOver.Load():
		case next > 0:
			x.enqueue(&s.running, func() { p.restartConsumer(s, x, next) })
		default:
			cause := consumer.EndCause()
			s.o.Log.Warn("partition's consumer ended", zap.Int("partition", p.lease.Partition), zap.Error(cause))
			s.sizes.NoteLost(cause)
			s.reportLost(p.lease)
		}
	})
}

// restartConsumer consumes the partition's queue with another prefetch count. First the
// requests that were accepted are completed, and the channel is closed if the consumer has
// left others: so the broker delivers these again, before all that follow.
func (p *servedPartition) restartConsumer(s *session, x *partitionSlot, prefetch int) {
	if x.serving.Load() != p || p.ctx.Err() != nil {
		return
	}
	if p.awaitRequests(&s.running) != nil {
		return // it was abandoned
	}
	logPrefetch(s.o.Log, p.consumer.Queue, prefetch)
	s.channels.Put(p.consumer)
	consumer, err := s.channels.GetWith(p.consumer.Queue, prefetch)
	if err == nil {
		consumer, err = s.startConsumer(p.ctx, p.lease.Partition, consumer)
	}
	if err != nil {
		if p.ctx.Err() == nil {
			s.o.Log.Warn("partition not consumed", zap.Int("partition", p.lease.Partition), zap.Error(err))
			s.reportLost(p.lease)
		}
		return
	}
	p.consumer, p.received = consumer, make(chan struct{})
	p.receive(s, x)
}

func logPrefetch(log *zap.Logger, queue string, prefetch int) {
	log.Debug("prefetch count changed because of the size of the requests", zap.String("queue", queue), zap.Int("prefetch", prefetch))
}

// awaitRequests waits until all that the partition's consumer has delivered is received and
// complete, in a goroutine that running counts. It returns an error if the partition is
// abandoned before that.
func (p *servedPartition) awaitRequests(running *sync.WaitGroup) error {
	consumer, received, completed := p.consumer, p.received, make(chan struct{})
	running.Go(func() {
		defer close(completed)
		<-received
		consumer.Requests.Wait()
	})
	select {
	case <-completed:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// servedLeases returns the leases of the partitions that are served, with their read leases.
func (all partitionSlots) servedLeases() map[partition.Lease]*partition.ReadLease {
	leases := make(map[partition.Lease]*partition.ReadLease)
	for _, x := range all {
		if p := x.serving.Load(); p != nil {
			leases[p.lease] = p.reads
		}
	}
	return leases
}

// onLeaseEnded handles that the database says that a lease has ended. If that is because the
// partition is handed over, there is nothing to do.
func onLeaseEnded(s *session, lease partition.Lease) {
	if p := s.slots[lease.Partition].serving.Load(); p != nil && p.lease == lease && !p.handingOver.Load() && !p.reportedLost.Swap(true) {
		logLost(s, lease)
		s.reportLost(lease)
	}
}

// reportLost tells the ownership core that a lease is of no use any more.
func (s *session) reportLost(lease partition.Lease) {
	s.coordinator.Post(ownership.LeaseLost{Partition: lease.Partition, Epoch: lease.Epoch})
}

// openPartition consumes the queue of a partition, after it has made sure that this
// instance holds the lease, and that the notifications that earlier owners have left in
// the log are sent before those of this one. Until a holder that was deposed has certainly
// stopped reading users from memory, requests wait in the queue, and the reads of the
// shared queue go to the database.
func (s *session) openPartition(ctx context.Context, command ownership.Consume) (*servedPartition, error) {
	lease := command.Lease
	consumer, err := s.takeOver(ctx, lease)
	if err != nil {
		return nil, err
	}
	if err := wait.For(ctx, time.Until(command.WriteFrom)); err != nil {
		s.channels.Put(consumer)
		return nil, err
	}
	if consumer, err = s.startConsumer(ctx, lease.Partition, consumer); err != nil {
		return nil, err
	}
	reads := partition.NewReadLease(s.reads.Renew)
	return &servedPartition{
		ctx:      ctx,
		lease:    lease,
		reads:    reads,
		consumer: consumer,
		users: actor.NewPartition(actor.PartitionOptions{
			Store:     s.o.Store,
			Lease:     lease,
			ReadLease: reads,
			Mailbox:   s.o.Mailbox,
			Cache:     s.cache,
			Fenced:    func() { s.onFenced(lease) },
		}),
		received: make(chan struct{}),
	}, nil
}

// takeOver takes over the notifications of a partition, and takes a channel for the
// consumer at the same time.
func (s *session) takeOver(ctx context.Context, lease partition.Lease) (*consume.Consumer, error) {
	var consumer *consume.Consumer
	var opening errgroup.Group
	opening.Go(func() (err error) {
		consumer, err = s.channels.Get(s.o.queueOf(lease.Partition))
		return err
	})
	taken := s.notifier.TakeOver(ctx, lease)
	if err := opening.Wait(); err != nil {
		return nil, err
	}
	if taken != nil {
		s.channels.Put(consumer)
		return nil, fmt.Errorf("taking over the notifications: %w", taken)
	}
	return consumer, nil
}

// startConsumer starts a consumer of a partition's queue, or another one if that fails
// and may succeed soon.
func (s *session) startConsumer(ctx context.Context, partition int, consumer *consume.Consumer) (*consume.Consumer, error) {
	slow := time.AfterFunc(slowConsume, func() {
		s.o.Log.Warn("partition not consumed", zap.Int("partition", partition), zap.Error(errNoAnswer))
	})
	defer slow.Stop()
	for begun := time.Now(); ; {
		err := consumer.Start(s.o.QueueType == topology.Classic)
		if err == nil {
			return consumer, nil
		}
		if broker.IsCode(err, amqp.NotFound) {
			s.repairer.ReportMissing(s.o.queueOf(partition))
		} else if !broker.IsCode(err, amqp.AccessRefused) {
			return nil, err
		}
		if time.Since(begun) > consumeFor {
			return nil, err
		}
		if err := wait.For(ctx, consumeEvery); err != nil {
			return nil, err
		}
		if consumer, err = s.channels.GetWith(s.o.queueOf(partition), consumer.Prefetch()); err != nil {
			return nil, err
		}
	}
}

// HandOver stops serving a partition in order, and then ends its lease. It does not wait
// for that.
func (s *session) HandOver(command ownership.HandOver) {
	x := s.slots[command.Partition]
	x.enqueue(&s.running, func() {
		p := x.serving.Load()
		if p == nil || p.lease != command.Lease || p.ctx.Err() != nil {
			return // it was abandoned
		}
		begun := time.Now()
		if err := s.finishServing(x, p); err != nil {
			return
		}
		s.coordinator.EndLease(command, func() {
			after := time.Since(begun)
			s.metrics.HandOvers.Observe(after.Seconds())
			s.o.Log.Debug("partition handed over", zap.Int("partition", command.Partition), zap.Duration("after", after))
		})
	})
}

// finishServing cancels the consumer of a partition, and waits until all of its requests are
// complete. It waits for their notifications too, but not for long. It returns an error if
// the partition is abandoned before that.
func (s *session) finishServing(x *partitionSlot, p *servedPartition) error {
	p.handingOver.Store(true)
	x.accepting.Store(nil)
	if err := p.consumer.Cancel(); err != nil {
		s.reportLost(p.lease)
		return err
	}
	if err := p.awaitRequests(&s.running); err != nil {
		return err
	}
	if err := p.users.Drain(p.ctx); err != nil {
		return err
	}
	if err := s.notifier.Release(p.ctx, p.lease); err != nil {
		return err
	}
	s.channels.Put(p.consumer)
	x.serving.Store(nil)
	p.cancel()
	return nil
}

// Abandon stops serving a partition at once. When it has returned, nothing is read from
// its users' state any more. Closing its channel, so that the broker delivers again what
// was not acknowledged, follows in the background.
func (s *session) Abandon(partition int) {
	x := s.slots[partition]
	x.cancelLease()
	x.accepting.Store(nil)
	if p := x.serving.Load(); p != nil {
		p.users.Drain(canceled) // which returns at once
		s.notifier.Abandon(p.lease)
	}
	x.enqueue(&s.running, func() {
		p := x.serving.Swap(nil)
		if p == nil {
			return
		}
		s.metrics.Lost.Inc()
		s.notifier.Abandon(p.lease)
		p.consumer.Close()
		s.running.Go(func() {
			p.users.Stop()
			<-p.received
			p.consumer.Requests.Wait()
		})
	})
}

// These methods, with StartServing, HandOver and Abandon, make a session a
// [coordinate.Executor].

func (s *session) Broadcast(m ownership.Message) { s.members.Broadcast(m) }

func (s *session) Send(to ownership.Member, m ownership.Message) { s.members.Send(to, m) }

func (s *session) Probe(m ownership.Member) { s.members.Probe(m) }

func (s *session) Reconnect(why string) { s.fail(fmt.Errorf("%w: %s", errReconnect, why)) }

// canceled is a context that is done.
var canceled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
