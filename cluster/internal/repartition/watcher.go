package repartition

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/throttle"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// lookEvery is how often an instance looks whether a repartition has begun, if nothing wakes it.
	lookEvery = time.Second

	// lookTimeout bounds a look.
	lookTimeout = 5 * time.Second

	// failedPause is how long an instance leaves it to others after it has failed to carry a repartition
	// on: it may be cut off from the broker.
	failedPause = 300 * time.Millisecond

	// switchEvery is how often an instance looks while no generation is served.
	switchEvery = 50 * time.Millisecond

	// failedEvery is how often a failure is logged at most.
	failedEvery = 10 * time.Second
)

// Records has the generations and the repartitions of a cluster. The errors are those of package
// partition.
type Records interface {
	// Look returns the cluster's generation, and the latest repartition, nil if there was none.
	Look(ctx context.Context) (partition.Generation, *partition.Repartition, error)

	// GiveUp gives a repartition up, unless it has ended the old generation.
	GiveUp(ctx context.Context, number int, why string) error

	// Start begins an attempt to carry a repartition on, unless another instance does so: then ok is
	// false.
	Start(ctx context.Context, number int, mover string) (attempt int64, ok bool, err error)

	// Renew keeps others from beginning an attempt for 2 s.
	Renew(context.Context, partition.Attempt) error

	// Yield lets others begin an attempt.
	Yield(context.Context, partition.Attempt) error

	// EndGeneration ends the old generation, of which the instance must hold all leases. Its queues may
	// be deleted after keep.
	EndGeneration(ctx context.Context, a partition.Attempt, held []partition.Lease, keep time.Duration) error

	// BeginGeneration begins the new generation. The note stays until another attempt has one.
	BeginGeneration(context.Context, partition.Attempt) error

	// Finish ends the repartition.
	Finish(context.Context, partition.Attempt) error
}

// A Watcher says in which generation an instance has to work, and carries repartitions on.
type Watcher struct {
	o      Options
	wake   wait.Signal
	failed *throttle.Logger

	mu      sync.Mutex // guards the following fields
	present partition.Generation
	leave   func() // ends the work in the present generation; nil: there is none
	latest  *partition.Repartition
}

// NewWatcher returns a Watcher.
func NewWatcher(o Options) *Watcher {
	return &Watcher{o: o, wake: wait.NewSignal(), failed: throttle.New(o.Log, zap.WarnLevel, "repartition not carried on, trying again", failedEvery)}
}

// Wake has the watcher look soon. It does not block.
func (w *Watcher) Wake() { w.wake.Notify() }

// Await returns the generation in which to work, when there is one, or an error if ctx is done. While
// there is none, this instance may be the one that carries the repartition on.
func (w *Watcher) Await(ctx context.Context) (partition.Generation, error) {
	for {
		g, r, err := w.look(ctx)
		switch {
		case err != nil:
			w.failed.Log(1, zap.Error(err))
		case !r.IsSwitching():
			return g, nil
		case w.carryOn(ctx, r) != nil:
			wait.For(ctx, failedPause) // an error means that ctx is done
		}
		if err := wait.For(ctx, switchEvery); err != nil {
			return partition.Generation{}, err
		}
	}
}

// Enter says that the instance works in a generation, which it has to leave when leave is called.
func (w *Watcher) Enter(g partition.Generation, leave func()) {
	w.mu.Lock()
	w.present, w.leave = g, leave
	w.mu.Unlock()
	w.Wake()
}

// Leave says that the instance has left the generation.
func (w *Watcher) Leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leave = nil
}

// Run looks until ctx is done. It has the instance leave its generation when a repartition has begun, and
// clears the old queues of one that is nearly done.
func (w *Watcher) Run(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-w.wake:
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		g, r, err := w.look(ctx)
		if err != nil {
			continue // the instance notices that the database is out of reach
		}
		if w.mustLeave(g, r) {
			continue
		}
		if r != nil && r.Phase == partition.Clearing && g == r.To {
			w.carryOn(ctx, r)
		}
	}
}

// mustLeave reports whether the instance has to leave its generation, and has it do so.
func (w *Watcher) mustLeave(g partition.Generation, r *partition.Repartition) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leave == nil || g == w.present && !r.IsSwitching() {
		return r.IsSwitching()
	}
	w.leave()
	return true
}

func (w *Watcher) look(ctx context.Context) (partition.Generation, *partition.Repartition, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	g, r, err := w.o.Records.Look(ctx)
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.latest = r
	}
	return g, r, err
}

// Latest returns the latest repartition when the watcher looked last, nil if there was none.
func (w *Watcher) Latest() *partition.Repartition {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest
}

// carryOn carries a repartition on, unless another instance does so.
func (w *Watcher) carryOn(ctx context.Context, r *partition.Repartition) error {
	err := carryOn(ctx, &w.o, r)
	if err != nil && ctx.Err() == nil && !errors.Is(err, partition.ErrSuperseded) {
		w.failed.Log(1, zap.String("phase", string(r.Phase)), zap.Error(err))
	}
	return err
}
