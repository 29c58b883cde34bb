package topology

import (
	"context"
	"time"

	"go.uber.org/zap"

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

	// declareEvery is how often everything is declared without a sign that something
	// is missing: the broker does not report that an exchange or a binding is deleted.
	declareEvery = 30 * time.Second

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
type Repairer struct {
	topology *Topology
	lock     RebindLock
	rebound  func() // called after each rebind

	misrouted wait.Signal
	missing   wait.Signal
}

// NewRepairer returns a Repairer. It calls rebound after each rebind.
func NewRepairer(t *Topology, lock RebindLock, rebound func()) *Repairer {
	return &Repairer{topology: t, lock: lock, rebound: rebound, misrouted: wait.NewSignal(), missing: wait.NewSignal()}
}

// ReportMisrouted says that a direct request reached the wrong partition queue. It does
// not block.
func (r *Repairer) ReportMisrouted() { r.misrouted.Notify() }

// ReportMissing says that a partition queue does not exist. It does not block.
func (r *Repairer) ReportMissing() { r.missing.Notify() }

// Run repairs until ctx is done.
func (r *Repairer) Run(ctx context.Context) {
	interval := firstRebindInterval
	var last time.Time // when this instance rebound
	all := time.NewTicker(declareEvery)
	defer all.Stop()
	shared := time.NewTicker(declareSharedEvery)
	defer shared.Stop()
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
			r.declare(ctx)
			wait.For(ctx, declarePause) // likewise
		case <-all.C:
			r.declare(ctx)
		case <-shared.C:
			r.topology.declareShared() // declare logs an error, less often
		case <-ctx.Done():
			return
		}
	}
}

// rebind binds the partition queues again if the lock allows it. It returns whether it
// did.
func (r *Repairer) rebind(ctx context.Context, interval time.Duration) bool {
	done, err := r.lock.TryRebind(ctx, interval, func(context.Context) error { return r.topology.rebindQueues() })
	switch {
	case err != nil && ctx.Err() == nil:
		r.topology.o.Log.Warn("rebinding the partition queues failed", zap.Error(err))
	case done:
		r.rebound()
	}
	return err == nil && done
}

// declare declares everything, and logs an error.
func (r *Repairer) declare(ctx context.Context) {
	if err := r.topology.Declare(ctx); err != nil && ctx.Err() == nil {
		r.topology.o.Log.Error("queues and exchanges not declared", zap.Error(err))
	}
}
