package cluster

import (
	"context"
	"sync"
	"sync/atomic"
)

// A partitionSlot carries out the commands about one partition, one after another.
type partitionSlot struct {
	accepting atomic.Pointer[servedPartition] // accepts requests from the router; nil: none
	serving   atomic.Pointer[servedPartition] // is consumed, or is being handed over; nil: none

	mu     sync.Mutex // guards the following fields
	todo   []func()
	busy   bool               // a goroutine is working on todo
	cancel context.CancelFunc // abandons the latest lease; nil: there was none
}

// enqueue calls f after everything that was enqueued before, in a goroutine that running
// counts.
func (x *partitionSlot) enqueue(running *sync.WaitGroup, f func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.todo = append(x.todo, f)
	if !x.busy {
		x.busy = true
		running.Go(x.work)
	}
}

// work calls what is enqueued until there is nothing left.
func (x *partitionSlot) work() {
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
}

// setCancel sets what abandons the latest lease.
func (x *partitionSlot) setCancel(cancel context.CancelFunc) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cancel = cancel
}

// cancelLease abandons the latest lease.
func (x *partitionSlot) cancelLease() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cancel != nil {
		x.cancel()
	}
}
