package cluster

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// A rebinder mends what leads to the partitions' queues, when requests come out
// elsewhere than they should. The exchange forgets the order of its bindings
// when the broker restarts, or somebody unbinds a queue.
type rebinder struct {
	*session
	misplacing chan struct{} // holds a token while a request has been misplaced
	missing    chan struct{} // holds a token while a queue is missing
}

const (
	// A second look follows after rebindEvery, since requests that were
	// misplaced before are still to be found in the queues. When that does not
	// help, ever longer after.
	rebindEvery   = 10 * time.Second
	rebindLongest = 10 * time.Minute

	declareEvery = time.Second

	// lookEvery is how often all is declared without any occasion: nobody tells
	// that an exchange or a binding is gone.
	lookEvery = 30 * time.Second

	// lookForShared is how often the shared queue and its binding are: without
	// them, requests are lost.
	lookForShared = 5 * time.Second
)

func newRebinder(s *session) *rebinder {
	return &rebinder{session: s, misplacing: make(chan struct{}, 1), missing: make(chan struct{}, 1)}
}

// wake says that a request was misplaced. It does not wait.
func (r *rebinder) wake() {
	select {
	case r.misplacing <- struct{}{}:
	default:
	}
}

// declare says that a queue is missing. It does not wait.
func (r *rebinder) declare() {
	select {
	case r.missing <- struct{}{}:
	default:
	}
}

// run mends until the session is over. Of all instances, one at a time binds the
// queues anew.
func (r *rebinder) run() {
	least := rebindEvery
	var last time.Time
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	shared := time.NewTicker(lookForShared)
	defer shared.Stop()
	for {
		select {
		case <-r.misplacing:
			if time.Since(last) > 2*rebindLongest {
				least = rebindEvery
			}
			bound, err := r.o.Store.TryRebind(r.ctx, least, func(context.Context) error {
				return rebindQueues(r.conn, r.o)
			})
			switch {
			case err != nil && r.ctx.Err() == nil:
				r.o.Log.Warn("partition queues not bound anew", zap.Error(err))
			case bound:
				r.metrics.rebinds.Inc()
				r.o.Log.Warn("requests came to other partitions' queues; they are bound anew", zap.Int64("misplaced", count(r.metrics.misrouted)))
				last, least = time.Now(), min(2*least, rebindLongest)
			}
			r.pause(time.Second)
		case <-r.missing:
			r.declareAll()
			r.pause(declareEvery)
		case <-look.C:
			r.declareAll()
		case <-shared.C:
			declareShared(r.conn) // an error is told by declareAll, less often
		case <-r.ctx.Done():
			return
		}
	}
}

// declareAll declares what requests come by. What is there stays as it is.
func (r *rebinder) declareAll() {
	err := declareShared(r.conn)
	if err == nil {
		err = declareCluster(r.ctx, r.conn, r.o)
	}
	if err != nil && r.ctx.Err() == nil {
		r.o.Log.Error("queues and exchanges not declared", zap.Error(err))
	}
}

func (r *rebinder) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.ctx.Done():
	}
}
