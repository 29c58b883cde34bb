package cluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A coordinator runs the ownership logic of an instance for as long as the
// instance lives: it feeds it with events, one at a time, and has its commands
// carried out. What concerns the broker goes to the session that is attached;
// without one there is nobody to carry it out, and it is dropped.
type coordinator struct {
	core  *ownership.Core
	store Store
	log   *zap.Logger

	events   *batchqueue.Queue[any]             // of type ownership.Event, attach, detach, question or blocked
	claims   *batchqueue.Queue[ownership.Claim] // of what is free, as far as known
	deposals *batchqueue.Queue[ownership.Claim] // of what somebody holds
	releases *batchqueue.Queue[partition.Lease] // told as Released
	ends     *batchqueue.Queue[ending]          // of what is handed over
	session  *session                           // attached; only run's
	blocked  bool                               // the broker takes nothing from it; only run's
	later    []ownership.Event                  // until it does; only run's
	stopped  func(ownership.StopReason, string)

	state atomic.Uint32 // an ownership.State
	left  chan struct{} // closed when the instance has left
	ended chan struct{} // closed when run has returned

	// claimed is by partition when it was claimed, in Unix nanoseconds; if that
	// was refused, when it was granted, and 0 until then.
	claimed []atomic.Int64
}

type (
	attach struct {
		session *session
		number  int64
	}
	detach struct {
		session *session
		done    chan struct{}
	}
	question struct {
		answer chan<- ownership.Status
	}
	blocked struct {
		session *session
		yes     bool
	}
	ending struct {
		what ownership.HandOver
		done func() // before the ownership logic is told
	}
)

const (
	claimTimeout   = 8 * time.Second
	releaseTimeout = 5 * time.Second
	surveyTimeout  = 5 * time.Second

	// releaseEvery is how often it is tried again to end a lease.
	releaseEvery = 200 * time.Millisecond

	maxEvents = 10_000
)

// newCoordinator returns a coordinator that does nothing before run. It calls
// stopped when the instance has to end.
func newCoordinator(cfg ownership.Config, store Store, log *zap.Logger, stopped func(ownership.StopReason, string)) (*coordinator, error) {
	core, err := ownership.New(cfg)
	if err != nil {
		return nil, err
	}
	return &coordinator{
		core:     core,
		store:    store,
		log:      log,
		events:   batchqueue.New[any](),
		claims:   batchqueue.New[ownership.Claim](),
		deposals: batchqueue.New[ownership.Claim](),
		releases: batchqueue.New[partition.Lease](),
		ends:     batchqueue.New[ending](),
		stopped:  stopped,
		left:     make(chan struct{}),
		ended:    make(chan struct{}),
		claimed:  make([]atomic.Int64, cfg.Partitions),
	}, nil
}

// tell gives the ownership logic events, which it looks at together. It does not
// wait. When it is far behind, it does not hear what members say, who say it again.
func (c *coordinator) tell(events ...ownership.Event) {
	full := c.events.Len() >= maxEvents
	var all []any
	for _, e := range events {
		if _, heard := e.(ownership.MessageReceived); !heard || !full {
			all = append(all, e)
		}
	}
	c.events.Put(all...)
}

// attach begins a session with the ownership logic.
func (c *coordinator) attach(s *session, number int64) { c.events.Put(attach{s, number}) }

// detach ends a session, and returns when no more commands go to it. It is to
// be called while run runs.
func (c *coordinator) detach(s *session) {
	done := make(chan struct{})
	c.events.Put(detach{s, done})
	<-done
}

// block says whether the broker takes nothing that is published, since it is
// short of memory or disk space. Then nobody hears of anybody, and nobody is
// suspected for that: nothing is decided until it is over. If it has lasted for
// so long that others could have suspected this instance, it claims anew what it
// holds.
func (c *coordinator) block(s *session, yes bool) { c.events.Put(blocked{s, yes}) }

// end ends a lease under which nothing is done any more, trying again until the
// database has said that it is over. Then it calls done, and tells the ownership
// logic.
func (c *coordinator) end(what ownership.HandOver, done func()) {
	c.ends.Put(ending{what, done})
}

// look returns how things are, unless run has ended. It waits for run to begin.
func (c *coordinator) look() (status ownership.Status, ok bool) {
	answer := make(chan ownership.Status, 1)
	c.events.Put(question{answer})
	select {
	case status = <-answer:
		return status, true
	case <-c.ended:
		return ownership.Status{}, false
	}
}

// sinceClaim says how long ago a partition was claimed, or granted.
func (c *coordinator) sinceClaim(partition int) time.Duration {
	return time.Since(time.Unix(0, c.claimed[partition].Load()))
}

// is reports whether the instance is in this state.
func (c *coordinator) is(state ownership.State) bool { return ownership.State(c.state.Load()) == state }

// run works until ctx is done. No session may be attached then.
func (c *coordinator) run(ctx context.Context) {
	defer close(c.ended)
	var workers sync.WaitGroup
	defer workers.Wait()
	workers.Go(func() { c.claimAll(ctx, c.claims) })
	workers.Go(func() { c.claimAll(ctx, c.deposals) })
	workers.Go(func() { c.releaseAll(ctx) })
	workers.Go(func() { c.endAll(ctx) })

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.events.Ready():
			c.handle(ctx, &workers, c.events.Take())
		case <-timer.C:
			c.step(ctx, &workers, ownership.Tick{})
		case <-ctx.Done():
			return
		}
		wait := time.Hour // until an event
		if wake := c.core.NextTick(); !wake.IsZero() && !c.blocked {
			wait = max(0, time.Until(wake))
		}
		timer.Reset(wait)
	}
}

// handle takes what has come, in its order. Events that follow one another are
// looked at together.
func (c *coordinator) handle(ctx context.Context, workers *sync.WaitGroup, all []any) {
	var events []ownership.Event
	for _, x := range all {
		if e, ok := x.(ownership.Event); !ok {
			c.step(ctx, workers, events...)
			events = nil
			c.control(ctx, workers, x)
		} else if !c.blocked {
			events = append(events, e)
		} else if _, heard := e.(ownership.MessageReceived); !heard {
			c.later = append(c.later, e)
		}
	}
	c.step(ctx, workers, events...)
}

func (c *coordinator) control(ctx context.Context, workers *sync.WaitGroup, x any) {
	switch e := x.(type) {
	case attach:
		c.session = e.session
		c.step(ctx, workers, ownership.Connected{Session: e.number})
	case detach:
		if c.session == e.session {
			c.unblock(ctx, workers)
			c.step(ctx, workers, ownership.Disconnected{})
			c.session = nil
		}
		close(e.done)
	case question:
		e.answer <- c.core.Status()
	case blocked:
		switch {
		case c.session != e.session:
		case e.yes:
			c.blocked = true
		default:
			c.unblock(ctx, workers)
		}
	}
}

// unblock lets time go on.
func (c *coordinator) unblock(ctx context.Context, workers *sync.WaitGroup) {
	c.blocked = false
	c.step(ctx, workers, c.later...)
	c.later = nil
}

func (c *coordinator) step(ctx context.Context, workers *sync.WaitGroup, events ...ownership.Event) {
	if len(events) == 0 {
		return
	}
	for _, command := range c.core.Step(time.Now(), events...) {
		c.do(ctx, workers, command)
	}
}

// do has a command carried out, without waiting for it.
func (c *coordinator) do(ctx context.Context, workers *sync.WaitGroup, command ownership.Command) {
	switch command := command.(type) {
	case ownership.Claim:
		c.claimed[command.Partition].Store(time.Now().UnixNano())
		if command.Depose == 0 {
			c.claims.Put(command)
		} else {
			c.deposals.Put(command)
		}
	case ownership.Release:
		c.releases.Put(partition.Lease{Partition: command.Partition, Epoch: command.Epoch})
	case ownership.Survey:
		workers.Go(func() { c.survey(ctx) })
	case ownership.ReportRefusal:
		c.log.Error("member refused", zap.Stringer("member", command.Member), zap.String("why", command.Reason))
	case ownership.ReportState:
		c.log.Info("member", zap.Stringer("state", command.State))
		c.state.Store(uint32(command.State))
		if command.State == ownership.Left {
			close(c.left)
		}
	case ownership.Stop:
		c.stopped(command.Reason, command.Detail)
	default:
		if consume, ok := command.(ownership.Consume); ok {
			c.claimed[consume.Partition].CompareAndSwap(0, time.Now().UnixNano())
		}
		if c.session != nil {
			c.session.do(command)
		}
	}
}

// which names in the log the partitions that something is about.
func which[T any](all []T, partition func(T) int) zap.Field {
	numbers := make([]int, len(all))
	for i, one := range all {
		numbers[i] = partition(one)
	}
	return zap.Ints("partitions", numbers)
}

// claimAll makes the claims that wait, as many at once as there are.
func (c *coordinator) claimAll(ctx context.Context, claims *batchqueue.Queue[ownership.Claim]) {
	for batch := range claims.Batches(ctx) {
		claiming, cancel := context.WithTimeout(ctx, claimTimeout)
		answers, err := c.store.Claim(claiming, batch)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				c.log.Warn("partitions not claimed", which(batch, func(c ownership.Claim) int { return c.Partition }), zap.Error(err))
			}
			answers = nil
			for _, claim := range batch {
				answers = append(answers, ownership.ClaimFailed{Partition: claim.Partition, Attempt: claim.Attempt})
			}
		}
		for i, answer := range answers {
			if _, won := answer.(ownership.Claimed); !won {
				c.claimed[batch[i].Partition].Store(0)
			}
		}
		c.tell(answers...)
	}
}

// releaseAll releases leases that nothing works under. One that the database
// cannot be told of is found again by those who want it.
func (c *coordinator) releaseAll(ctx context.Context) {
	for batch := range c.releases.Batches(ctx) {
		releasing, cancel := context.WithTimeout(ctx, releaseTimeout)
		err := c.store.Release(releasing, batch)
		cancel()
		if err != nil {
			c.log.Warn("partitions not released", which(batch, func(l partition.Lease) int { return l.Partition }), zap.Error(err))
			continue
		}
		var released []ownership.Event
		for _, lease := range batch {
			released = append(released, ownership.LeaseReleased{Partition: lease.Partition, Epoch: lease.Epoch})
		}
		c.tell(released...)
	}
}

// endAll ends the leases that are handed over, those that wait at a time together.
func (c *coordinator) endAll(ctx context.Context) {
	for batch := range c.ends.Batches(ctx) {
		var all []ownership.HandOver
		for _, b := range batch {
			all = append(all, b.what)
		}
		answers, err := c.handOver(ctx, all)
		for err != nil {
			c.log.Warn("partitions not handed over, trying again", which(all, func(h ownership.HandOver) int { return h.Partition }), zap.Error(err))
			select {
			case <-time.After(releaseEvery):
			case <-ctx.Done():
				return
			}
			answers, err = c.handOver(ctx, all)
		}
		var over []ownership.Event
		for i, b := range batch {
			b.done()
			over = append(over, answers[i])
		}
		c.tell(over...)
	}
}

func (c *coordinator) handOver(ctx context.Context, all []ownership.HandOver) ([]ownership.HandedOver, error) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	return c.store.HandOver(ctx, all)
}

func (c *coordinator) survey(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	rows, err := c.store.Survey(ctx)
	if err != nil {
		return // it has been logged, and is done again
	}
	c.tell(ownership.Surveyed{Rows: rows})
}

// A StoppedError says why an instance must end, though it was not asked to.
type StoppedError struct {
	Reason ownership.StopReason
	Why    string
}

func (e *StoppedError) Error() string {
	if e.Reason == ownership.Superseded {
		return "a newer instance has this one's name: " + e.Why
	}
	return fmt.Sprintf("this instance and the cluster disagree: %s", e.Why)
}
