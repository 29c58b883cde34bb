package coordinate

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A Coordinator runs the ownership core for as long as the instance lives: it passes
// events to it, one at a time, and has its commands carried out. Commands about leases
// go to the database. Commands that need the broker go to the session that is attached;
// while none is, they are dropped.
type Coordinator struct {
	core    *ownership.Core
	store   LeaseStore
	log     *zap.Logger
	stopped func(ownership.StopReason, string) // called when the instance must end

	// inputs has values of the types ownership.Event, attachSession, detachSession,
	// queryStatus, surveyNow and brokerBlocked.
	inputs *batchqueue.Queue[any]

	// These queues are emptied by a goroutine each. Claims of free partitions do not
	// wait for claims that depose a member, which may take long.
	claims    *batchqueue.Queue[ownership.Claim] // of partitions that are free as far as known
	deposals  *batchqueue.Queue[ownership.Claim] // of partitions that a member holds
	releases  *batchqueue.Queue[partition.Lease]
	leaseEnds *batchqueue.Queue[leaseEnd] // of partitions that are handed over

	// Used by Run alone.
	session   Executor          // attached; nil: none
	blocked   bool              // the broker blocks the session's connection
	postponed []ownership.Event // until it is unblocked

	left  chan struct{} // closed when the instance has left the cluster
	ended chan struct{} // closed when Run has returned

	// claimed has by partition when it was claimed or, if that was refused, when it was
	// granted, in Unix nanoseconds; 0 in between.
	claimed []atomic.Int64
}

// An Executor carries out the commands that need the broker, without waiting until they
// are done. The session is one.
type Executor interface {
	Broadcast(ownership.Message)
	Send(to ownership.Member, m ownership.Message)
	Probe(ownership.Member)
	StartServing(ownership.Consume)
	HandOver(ownership.HandOver)
	Abandon(partition int)
	Reconnect(why string)
}

type (
	attachSession struct {
		session Executor
		number  int64
	}
	detachSession struct {
		session Executor
		done    chan<- struct{}
	}
	queryStatus struct {
		reply chan<- ownership.Status
	}
	surveyNow     struct{}
	brokerBlocked struct {
		session Executor
		blocked bool
	}
)

// maxInputs is how many inputs may wait before messages of members are dropped.
const maxInputs = 10_000

// New returns a Coordinator that does nothing before Run is called. It calls
// stopped when the instance must end.
func New(cfg ownership.Config, store LeaseStore, log *zap.Logger, stopped func(ownership.StopReason, string)) (*Coordinator, error) {
	core, err := ownership.New(cfg)
	if err != nil {
		return nil, err
	}
	return &Coordinator{
		core:      core,
		store:     store,
		log:       log,
		stopped:   stopped,
		inputs:    batchqueue.New[any](),
		claims:    batchqueue.New[ownership.Claim](),
		deposals:  batchqueue.New[ownership.Claim](),
		releases:  batchqueue.New[partition.Lease](),
		leaseEnds: batchqueue.New[leaseEnd](),
		left:      make(chan struct{}),
		ended:     make(chan struct{}),
		claimed:   make([]atomic.Int64, cfg.Partitions),
	}, nil
}

// Post passes events to the ownership core, which handles them together. It does not
// block. If too many inputs wait, it drops messages of members: members repeat them.
func (c *Coordinator) Post(events ...ownership.Event) {
	full := c.inputs.Len() >= maxInputs
	var inputs []any
	for _, e := range events {
		if _, message := e.(ownership.MessageReceived); !message || !full {
			inputs = append(inputs, e)
		}
	}
	c.inputs.Put(inputs...)
}

// Attach makes s the session that commands go to.
func (c *Coordinator) Attach(s Executor, number int64) { c.inputs.Put(attachSession{s, number}) }

// Detach ends a session. When it has returned, no more commands go to s. It must be
// called while Run runs.
func (c *Coordinator) Detach(s Executor) {
	done := make(chan struct{})
	c.inputs.Put(detachSession{s, done})
	<-done
}

// SetBlocked says whether the broker blocks what a session publishes, because it is
// short of memory or disk space. Then no member receives heartbeats, which is not the
// members' fault: nothing is decided until the connection is unblocked. If that takes
// so long that other members may suspect this one, this one claims its partitions again.
func (c *Coordinator) SetBlocked(s Executor, blocked bool) {
	c.inputs.Put(brokerBlocked{s, blocked})
}

// EndLease ends the lease of a partition that was handed over. It is tried until the
// database has confirmed it. Then EndLease calls done, and tells the ownership core.
func (c *Coordinator) EndLease(h ownership.HandOver, done func()) {
	c.leaseEnds.Put(leaseEnd{h, done})
}

// Status returns the status of the ownership core; ok is false if Run has ended. It
// waits for Run to begin.
func (c *Coordinator) Status() (status ownership.Status, ok bool) {
	reply := make(chan ownership.Status, 1)
	c.inputs.Put(queryStatus{reply})
	select {
	case status = <-reply:
		return status, true
	case <-c.ended:
		return ownership.Status{}, false
	}
}

// Survey has the epoch table read soon. It does not block.
func (c *Coordinator) Survey() { c.inputs.Put(surveyNow{}) }

// Left returns a channel that is closed when the instance has left the cluster.
func (c *Coordinator) Left() <-chan struct{} { return c.left }

// SinceClaim returns how long ago a partition was claimed, or granted.
func (c *Coordinator) SinceClaim(partition int) time.Duration {
	return time.Since(time.Unix(0, c.claimed[partition].Load()))
}

// Run works until ctx is done. No session may be attached then.
func (c *Coordinator) Run(ctx context.Context) {
	defer close(c.ended)
	var workers sync.WaitGroup
	defer workers.Wait()
	workers.Go(func() { c.claimAll(ctx, c.claims) })
	workers.Go(func() { c.claimAll(ctx, c.deposals) })
	workers.Go(func() { c.releaseAll(ctx) })
	workers.Go(func() { c.endLeases(ctx) })

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.inputs.Ready():
			c.handle(ctx, &workers, c.inputs.Take())
		case <-timer.C:
			c.step(ctx, &workers, ownership.Tick{})
		case <-ctx.Done():
			return
		}
		pause := time.Hour // if the core waits for an event
		if wake := c.core.NextTick(); !wake.IsZero() && !c.blocked {
			pause = max(0, time.Until(wake))
		}
		timer.Reset(pause)
	}
}

// handle handles inputs in their order. Successive events are passed to the core
// together.
func (c *Coordinator) handle(ctx context.Context, workers *sync.WaitGroup, inputs []any) {
	var events []ownership.Event
	for _, input := range inputs {
		if e, ok := input.(ownership.Event); !ok {
			c.step(ctx, workers, events...)
			events = nil
			c.handleControl(ctx, workers, input)
		} else if !c.blocked {
			events = append(events, e)
		} else if _, message := e.(ownership.MessageReceived); !message {
			c.postponed = append(c.postponed, e)
		}
	}
	c.step(ctx, workers, events...)
}

// handleControl handles an input that is not an event.
func (c *Coordinator) handleControl(ctx context.Context, workers *sync.WaitGroup, input any) {
	switch in := input.(type) {
	case attachSession:
		c.session = in.session
		c.step(ctx, workers, ownership.Connected{Session: in.number})
	case detachSession:
		if c.session == in.session {
			c.unblock(ctx, workers)
			c.step(ctx, workers, ownership.Disconnected{})
			c.session = nil
		}
		close(in.done)
	case queryStatus:
		in.reply <- c.core.Status()
	case surveyNow:
		workers.Go(func() { c.survey(ctx) })
	case brokerBlocked:
		switch {
		case c.session != in.session:
		case in.blocked:
			c.blocked = true
		default:
			c.unblock(ctx, workers)
		}
	}
}

// unblock passes the postponed events to the core.
func (c *Coordinator) unblock(ctx context.Context, workers *sync.WaitGroup) {
	c.blocked = false
	c.step(ctx, workers, c.postponed...)
	c.postponed = nil
}

// step passes events to the core and carries out its commands.
func (c *Coordinator) step(ctx context.Context, workers *sync.WaitGroup, events ...ownership.Event) {
	if len(events) == 0 {
		return
	}
	for _, command := range c.core.Step(time.Now(), events...) {
		c.execute(ctx, workers, command)
	}
}

// execute carries out a command, without waiting until it is done.
func (c *Coordinator) execute(ctx context.Context, workers *sync.WaitGroup, command ownership.Command) {
	var session Executor = noSession{}
	if c.session != nil {
		session = c.session
	}
	switch command := command.(type) {
	// Leases and the instance itself.
	case ownership.Claim:
		c.claim(command)
	case ownership.Release:
		c.release(ctx, workers, command)
	case ownership.Survey:
		workers.Go(func() { c.survey(ctx) })
	case ownership.ReportRefusal:
		c.log.Error("member refused", zap.Stringer("member", command.Member), zap.String("why", command.Reason))
	case ownership.ReportSuspicion:
		message := "member suspected: nothing heard of it"
		if command.Wrong {
			message = "suspected member heard again"
		}
		c.log.Warn(message, zap.Stringer("member", command.Member), zap.Duration("silent", command.Silent))
	case ownership.ReportTableBehind:
		c.log.Error("database has lost commits", partitionsField(command.Leases, func(l partition.Lease) int { return l.Partition }))
	case ownership.ReportState:
		c.log.Info("member", zap.Stringer("state", command.State))
		if command.State == ownership.Left {
			close(c.left)
		}
	case ownership.Stop:
		c.stopped(command.Reason, command.Detail)

	// What needs the broker.
	case ownership.Broadcast:
		session.Broadcast(command.Message)
	case ownership.Send:
		session.Send(command.To, command.Message)
	case ownership.Probe:
		session.Probe(command.Member)
	case ownership.Consume:
		c.claimed[command.Partition].CompareAndSwap(0, time.Now().UnixNano())
		session.StartServing(command)
	case ownership.HandOver:
		session.HandOver(command)
	case ownership.Abandon:
		session.Abandon(command.Partition)
	case ownership.Reconnect:
		session.Reconnect(command.Reason)
	}
}

// noSession drops the commands that need the broker while no session is attached.
type noSession struct{}

func (noSession) Broadcast(ownership.Message)              {}
func (noSession) Send(ownership.Member, ownership.Message) {}
func (noSession) Probe(ownership.Member)                   {}
func (noSession) StartServing(ownership.Consume)           {}
func (noSession) HandOver(ownership.HandOver)              {}
func (noSession) Abandon(int)                              {}
func (noSession) Reconnect(string)                         {}
