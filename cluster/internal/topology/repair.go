package topology

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/throttle"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// firstRebindInterval is the least time between two rebinds by any instance. It is
	// not shorter because requests that were misrouted before the first rebind are
	// still in the queues after it. The interval doubles with each rebind, up to
	// longestRebindInterval, since more rebinds do not help if the first did not.
	firstRebindInterval   = 10 * time.Second
	longestRebindInterval = 10 * time.Minute

	// rebindPause is the least time between two attempts of one instance.
	rebindPause = time.Second

	// declarePause is the least time between two declarations because of a missing
	// queue.
	declarePause = time.Second

	// rebindFailedEvery is how often a failed rebind is logged at most.
	rebindFailedEvery = 10 * time.Second

	// lookEvery is the longest time between two looks at what the broker does not report:
	// that an exchange or a binding was deleted, or that the direct exchange has lost the
	// order of its queues. The time is shortened at random by up to half, so that clusters
	// do not look in step.
	lookEvery = 30 * time.Second

	// declareSharedEvery is the same for the shared queue and its binding, without
	// which requests are lost.
	declareSharedEvery = 5 * time.Second
)

// A RebindLock keeps instances from rebinding at the same time, or too often.
type RebindLock interface {
	// TryRebind calls rebind and returns true, unless another instance is rebinding,
	// or the last rebind ended less than interval ago.
	TryRebind(ctx context.Context, interval time.Duration, rebind func(context.Context) error) (done bool, err error)
}

// A Repairer repairs the exchanges and queues of a cluster while the service runs. The
// consistent-hash exchange loses the order of its bindings when the broker restarts or
// a queue is unbound: then direct requests reach the wrong partition queues.
//
// Partition queues are not declared again and again. The broker tells the consumer of a
// queue that the queue was deleted, and a queue without a consumer is declared when it is
// to be consumed.
type Repairer struct {
	topology *Topology
	lock     RebindLock
	o        RepairerOptions

	misrouted wait.Signal
	missing   wait.Signal
	failed    *throttle.Logger // rebinds
	probing   atomic.Bool      // probes were sent, and the broker has not handled them yet
}

// RepairerOptions configure a [Repairer].
type RepairerOptions struct {
	// IsResponsible reports whether this instance is the one of the cluster that looks at
	// what belongs to all instances, and the broker accepts messages.
	IsResponsible func() bool

	// OnRebound is called after each rebind by this instance.
	OnRebound func()
}

// NewRepairer returns a Repairer.
func NewRepairer(t *Topology, lock RebindLock, o RepairerOptions) *Repairer {
	return &Repairer{
		topology: t, lock: lock, o: o, misrouted: wait.NewSignal(), missing: wait.NewSignal(),
		failed: throttle.New(t.o.Log, zap.WarnLevel, "rebinding the partition queues failed", rebindFailedEvery),
	}
}

// ReportMisrouted says that the direct exchange has put a request into the wrong partition
// queue, or into the shared queue. It does not block.
func (r *Repairer) ReportMisrouted() { r.misrouted.Notify() }

// ReportMissing says that a queue does not exist. Nothing is declared if the queue's node
// was down a short time ago. ReportMissing does not block.
func (r *Repairer) ReportMissing(queue string) {
	if !r.topology.isKnownDown(queue) {
		r.missing.Notify()
	}
}

// Run repairs until ctx is done.
func (r *Repairer) Run(ctx context.Context) {
	interval := firstRebindInterval
	var last time.Time // when this instance rebound
	look, shared := time.NewTimer(jitter(declareSharedEvery)), time.NewTimer(jitter(declareSharedEvery))
	defer look.Stop()
	defer shared.Stop()
	var probing sync.WaitGroup
	defer probing.Wait() // the end of the session closes the connection
	for {
		select {
		case <-r.misrouted:
			if time.Since(last) > 2*longestRebindInterval {
				interval = firstRebindInterval
			}
			if r.rebind(ctx, interval) {
				last, interval = time.Now(), min(2*interval, longestRebindInterval)
			}
			wait.For(ctx, rebindPause) // an error means that ctx is done
		case <-r.missing:
			r.logFailure(ctx, r.topology.Declare(ctx))
			wait.For(ctx, declarePause) // likewise
		case <-look.C:
			if r.o.IsResponsible() {
				r.look(ctx, &probing)
			}
			look.Reset(jitter(lookEvery))
		case <-shared.C:
			if r.o.IsResponsible() {
				r.topology.declareShared() // look logs an error, less often
			}
			shared.Reset(jitter(declareSharedEvery))
		case <-ctx.Done():
			return
		}
	}
}

// jitter returns a time of up to longest, and not less than half of it.
func jitter(longest time.Duration) time.Duration {
	return (&wait.Backoff{First: longest, Longest: longest}).Next()
}

// look declares what belongs to all instances, and sends probes through the direct
// exchange. It does not wait for these: if a partition's queue has no leader, the broker
// handles nothing on a channel with a message to it. No more are sent until it does.
func (r *Repairer) look(ctx context.Context, probing *sync.WaitGroup) {
	exists, err := r.topology.look(ctx)
	r.logFailure(ctx, err)
	if !exists || !r.probing.CompareAndSwap(false, true) {
		return
	}
	probing.Go(func() {
		defer r.probing.Store(false)
		returned, err := r.topology.probe(ctx)
		if err != nil && ctx.Err() == nil {
			r.topology.o.Log.Warn("the direct exchange could not be checked", zap.Error(err))
		}
		if returned {
			r.ReportMisrouted()
		}
	})
}

// rebind binds the partition queues again if the lock allows it. It returns whether it
// did.
func (r *Repairer) rebind(ctx context.Context, interval time.Duration) bool {
	done, err := r.lock.TryRebind(ctx, interval, func(context.Context) error { return r.topology.rebindQueues() })
	switch {
	case err != nil && ctx.Err() == nil:
		r.failed.Log(1, zap.Error(err))
	case done:
		r.o.OnRebound()
	}
	return err == nil && done
}

// logFailure logs why something could not be declared, unless err is nil or ctx is done.
func (r *Repairer) logFailure(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		r.topology.o.Log.Error("queues and exchanges not declared", zap.Error(err))
	}
}
