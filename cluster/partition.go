package cluster

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/relay"
	"github.com/glotpod/ident/cluster/partition"
)

// A servedPartition is a partition that this instance serves under a lease: it consumes
// the partition's queue, and runs the actors of the partition's users. Their requests
// come from that queue and from the router.
type servedPartition struct {
	ctx      context.Context // done when the partition is abandoned, or has been handed over
	cancel   context.CancelFunc
	lease    partition.Lease
	reads    *partition.ReadLease // for users in memory
	consumer *consume.Consumer
	users    *actor.Partition
	requests metrics.Meter // received by the consumer

	spilled spilledWrites
	senders relay.Senders // of relayed requests

	handingOver atomic.Bool // the consumer is being cancelled

	reportedLost atomic.Bool   // the database has said that the lease has ended
	received     chan struct{} // closed when all deliveries of the consumer were received
}

// A partitionSlot carries out the commands about one partition, one after another.
type partitionSlot struct {
	accepting atomic.Pointer[servedPartition] // accepts requests from the router; nil: none
	serving   atomic.Pointer[servedPartition] // is consumed, or is being handed over; nil: none

	mu     sync.Mutex // guards the following fields
	todo   []func()
	busy   bool               // a goroutine is working on todo
	cancel context.CancelFunc // abandons the latest lease; nil: there was none
}

// partitionSlots has the slot of each partition.
type partitionSlots []*partitionSlot

// accepting returns a partition if this instance serves it and it accepts requests from
// the router, else nil.
func (all partitionSlots) accepting(partition int) *servedPartition {
	return all[partition].accepting.Load()
}

// measure updates the rates of requests from the queues of the partitions that are
// served. since is the time since measure was called last.
func (all partitionSlots) measure(since time.Duration) {
	for _, x := range all {
		if p := x.serving.Load(); p != nil {
			p.requests.Measure(since)
		}
	}
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

// spillHeader has the mark of a spilled write.
const spillHeader = "ident-turn"

// spillMark returns the mark of a spilled write.
func spillMark(headers amqp.Table) (mark int64, ok bool) {
	mark, ok = headers[spillHeader].(int64)
	return mark, ok
}

// spilledWrites knows the users of one partition that have spilled writes: writes that
// came by the shared queue when the user's mailbox was full, and that this instance then
// put into the partition's queue. Until the last spilled write of a user comes out of the
// queue, later writes that come by the shared queue are spilled as well, so that they do
// not overtake.
//
// This holds as long as the partition is served without a break. If the last spilled
// write is lost because it expired in the queue, the next write of the user is spilled
// and takes its place.
type spilledWrites struct {
	mu   sync.Mutex      // guards the following field
	last map[int64]int64 // by user: the mark of the last spilled write
}

// has reports whether a user has spilled writes.
func (s *spilledWrites) has(user int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.last[user]
	return ok
}

// add notes that a write of the user is about to be spilled. It returns a mark that
// identifies the write, which is not zero.
func (s *spilledWrites) add(user int64) (mark int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = make(map[int64]int64)
	}
	mark = 1 + rand.Int64N(1<<62)
	s.last[user] = mark
	return mark
}

// remove notes that a spilled write has come out of the partition's queue.
func (s *spilledWrites) remove(user, mark int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last[user] == mark {
		delete(s.last, user)
	}
}
