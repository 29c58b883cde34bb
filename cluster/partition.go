package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/coordinate"
	"github.com/glotpod/ident/cluster/internal/generation"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/relay"
	"github.com/glotpod/ident/cluster/internal/repartition"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
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

// errGenerationEnds ends the sessions of an instance in a generation of partitions.
var errGenerationEnds = errors.New("the generation of partitions ends")

// switchGrace is how long an instance completes its requests when a generation ends. The others wait for
// it, and the broker delivers what is left to the next owner.
const switchGrace = 1500 * time.Millisecond

// in returns the options of a session in a generation.
func (o Options) in(g partition.Generation) Options {
	o.first, o.Partitions, o.QueueType = g.First, g.Partitions, g.QueueType
	o.Store = generation.NewView(o.Store, g)
	return o
}

// queueOf returns the name of a partition's queue.
func (o *Options) queueOf(partition int) string { return PartitionQueue(o.first + partition) }

// runGenerations works in one generation after another, until ctx is done or an instance has to end.
func (i *Instance) runGenerations(ctx context.Context, stop context.CancelCauseFunc) error {
	for {
		if w := i.watcher.Load(); w != nil {
			if !i.awaitDatabase(ctx) {
				return stopCause(ctx)
			}
			g, err := w.Await(ctx)
			if err != nil {
				return stopCause(ctx)
			}
			i.generation.Store(&g)
		}
		i.switching.Store(false)
		if err := i.runGeneration(ctx, stop, *i.generation.Load()); err != nil || ctx.Err() != nil {
			return err
		}
		i.switching.Store(true)
	}
}

// runGeneration works in a generation until it ends or ctx is done.
func (i *Instance) runGeneration(ctx context.Context, stop context.CancelCauseFunc, g partition.Generation) error {
	c, err := coordinate.New(i.ownership(g), generation.NewView(i.o.Store, g), i.o.Log, func(reason ownership.StopReason, why string) {
		stop(&StoppedError{reason, why})
	})
	if err != nil {
		return err
	}
	i.coordinator.Store(c)
	working, end := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	stopCoordinator := func() {
		end()
		running.Wait()
	}
	defer stopCoordinator()
	running.Go(func() { c.Run(working) })
	if i.drained.Load() {
		c.Post(ownership.DrainRequested{})
	}
	serving, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	if w := i.watcher.Load(); w != nil {
		w.Enter(g, func() { leave(errGenerationEnds) })
		defer w.Leave()
	}
	err = i.runSessions(serving)
	if stopCoordinator(); err == nil && ctx.Err() == nil {
		releaseAll(ctx, generation.NewView(i.o.Store, g), i.o)
	}
	return err
}

// releaseAll releases what leases are left of an instance whose sessions have ended, since a session
// may have been lost, or was ended because a request took too long. If that fails, they are taken.
func releaseAll(ctx context.Context, store Store, o Options) {
	limited, cancel := context.WithTimeout(ctx, switchGrace)
	defer cancel()
	rows, err := store.Survey(limited)
	if err != nil {
		return // the store has logged it
	}
	var own []partition.Lease
	for _, row := range rows {
		if !row.Released && row.Holder.Name == o.Name && row.Holder.Incarnation.Start == o.Start {
			own = append(own, row.Lease)
		}
	}
	if len(own) > 0 {
		store.Release(limited, own) // which logs an error
	}
}

// checkGeneration returns an error if the generation has ended whose queues a session has just bound, and
// unbinds them: the repartition may have unbound them before.
func checkGeneration(ctx context.Context, i *Instance, conn *amqp.Connection) error {
	if i.o.Generations == nil {
		return nil
	}
	present, r, err := i.o.Generations.Look(ctx)
	if g := *i.generation.Load(); err == nil && (g != present || r.IsSwitching()) {
		i.look()
		open, _ := topology.Over(conn, broker.Options{})
		err = errors.Join(errGenerationEnds, topology.Unbind(open, g))
	}
	return err
}

// look looks soon whether the generation has ended.
func (i *Instance) look() {
	if w := i.watcher.Load(); w != nil {
		w.Wake()
	}
}

// survey has the epoch table read soon, since another server or a restored backup is the database.
func (i *Instance) survey() {
	if c := i.coordinator.Load(); c != nil {
		c.Survey()
	}
	i.look()
}

// status returns the status of the ownership core; ok is false if there is none.
func (i *Instance) status() (status ownership.Status, ok bool) {
	if c := i.coordinator.Load(); c != nil {
		return c.Status()
	}
	return status, false
}

// newWatcher returns what knows the generations, and carries repartitions on.
func newWatcher(i *Instance) *repartition.Watcher {
	consuming := i.o.Broker
	consuming.Heartbeat = min(consuming.Heartbeat, consumingHeartbeat) // so that another instance can go on soon
	return repartition.NewWatcher(repartition.Options{
		Name:    i.o.Name,
		Store:   i.o.Store,
		Records: i.o.Generations,
		NextMember: func() ownership.Member {
			return ownership.Member{Name: i.o.Name, Incarnation: ownership.Incarnation{Start: i.o.Start, Session: i.sessions.Add(1)}}
		},
		Dial: func(ctx context.Context, purpose string) (repartition.Connection, error) {
			conn, err := dialFor(ctx, consuming, purpose)
			if err != nil {
				return nil, err
			}
			return repartition.Over(conn), nil
		},
		Bytes:       i.o.InFlight,
		DropsWithin: heartbeatsLost*i.o.Broker.Heartbeat + closeTimeout,
		NewNotifier: func(self ownership.Member, view generation.Store, g partition.Generation) *notify.Notifier {
			return newNotifier(i, self, view, g.Partitions, func(ctx context.Context) (*notify.Connection, error) {
				conn, err := dialFor(ctx, i.o.Broker, "notifications")
				if err != nil {
					return nil, err
				}
				return notifierConnection(conn, func() bool { return false }), nil
			})
		},
		Copy: func(d *amqp.Delivery, received time.Time, to partition.Generation) (string, amqp.Publishing, bool) {
			return copyRequest(&i.o, d, received, to)
		},
		Refusal: refusalOf,
		Log:     i.o.Log,
	})
}
