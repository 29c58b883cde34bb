package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/coordinate"
	"github.com/glotpod/ident/cluster/internal/generation"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/repartition"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
)

// Options say how an instance serves.
type Options struct {
	Store  Store
	Broker broker.Options

	Name       string // unique among the running instances
	Start      int64  // number of the run; greater than that of each earlier run under this name
	Version    string // of the program, for display
	Partitions int
	Weight     int      // in the hash ring, in tenths; 0 is 10
	QueueType  string   // of the partition queues: "quorum" or "classic"
	first      int      // the number of the first partition's queue
	Secret     [][]byte // keys that only the cluster's instances know; the first one seals

	// Generations records how many partitions there are, and of which type their queues, since a
	// repartition may change both. nil: Partitions and QueueType say so.
	Generations Generations

	// CommitStatus returns what the store does for a user of a partition, as that is numbered in
	// the database. nil: it is not known.
	CommitStatus func(partition int, userID int64) actor.CommitStatus

	// TokenReaders are the logins of the callers that get access tokens in replies. nil: all
	// callers get them, also those whose login is not known.
	TokenReaders []string

	Prefetch int                 // requests from the shared queue that are carried out at the same time
	Mailbox  int                 // requests that wait for one user, except those from the partition's queue
	Limits   msgpack.Limits      // of a request's body
	InFlight int64               // bytes of the bodies of all requests in flight
	Cache    *actor.CacheOptions // bounds on the users in memory; nil: none are
	Insist   bool                // whether to keep trying while RabbitMQ or the database is out of reach
	Grace    time.Duration       // how long draining may take

	Log    *zap.Logger
	Tracer trace.Tracer // nil: no tracing
}

// A Store is what an instance needs of the database.
type Store = generation.Store

// Generations has the generations and the repartitions of a cluster.
type Generations = repartition.Records

// maxUnsettled is how long an instance may not serve some of the partitions that it
// should, and still count as ready. Partitions move one after another.
const maxUnsettled = 10 * time.Second

// An Instance is a member of the cluster: it receives requests from RabbitMQ, carries
// them out or forwards them to the member that serves the user's partition, and replies.
type Instance struct {
	o        Options
	started  time.Time
	serving  atomic.Bool            // requests are being received
	stopping atomic.Bool            // Run is about to return; it drains first
	served   atomic.Bool            // requests have been received
	stored   atomic.Bool            // the database can be used, perhaps only over connections that are open
	refused  atomic.Bool            // it accepts no new connection
	trouble  atomic.Pointer[string] // the error of the last ping that failed; nil: none has
	metrics  *metrics.Metrics
	traffic  metrics.Traffic

	// Set by Run before begun is closed, and not changed afterwards.
	begun chan struct{}
	cache *actor.Cache

	generation  atomic.Pointer[partition.Generation]   // in which the instance works, or has worked last
	coordinator atomic.Pointer[coordinate.Coordinator] // of the generation; nil: there was none yet
	watcher     atomic.Pointer[repartition.Watcher]    // nil: there is one generation
	switching   atomic.Bool                            // the instance waits for the next generation
	drained     atomic.Bool                            // an operator has asked the instance to drain
	sessions    atomic.Int64                           // the number of the last session

	unsettled atomic.Int64 // since when some partitions are not served that should be, in Unix nanoseconds; 0: all are

	session atomic.Pointer[session] // the present one, nil if there is none
}

// New returns an instance that does nothing before Run is called.
func New(o Options) *Instance {
	i := &Instance{o: o, started: time.Now(), metrics: metrics.New(), begun: make(chan struct{})}
	i.generation.Store(&partition.Generation{Partitions: o.Partitions, QueueType: o.QueueType})
	if o.Generations != nil {
		i.watcher.Store(newWatcher(i))
	}
	return i
}

// Ready returns nil while the instance receives requests and can carry them out, and has
// once served all partitions that it should. Otherwise it returns the reason. A rolling
// update that waits for Ready before it stops the next instance does not move partitions
// of both at the same time.
func (i *Instance) Ready() error {
	switch {
	case i.stopping.Load():
		return errors.New("not serving: asked to end, or told to by other instances")
	case i.switching.Load():
		return errors.New("not serving: the number of partitions, or the type of their queues, is being changed")
	case !i.serving.Load():
		return errors.New("not serving: connecting to RabbitMQ, or waiting for partitions")
	case !i.stored.Load():
		return i.notStored("the database is out of reach")
	case i.refused.Load():
		return i.notStored("the database accepts no new connection, and requests use those that are open")
	case !i.hasArrived():
		return errors.New("waiting for partitions that are to be this instance's")
	case i.unsettledFor() > maxUnsettled:
		return errors.New("partitions that are this instance's could not be taken")
	}
	if err := i.sharedErr(); err != nil {
		return fmt.Errorf("the shared queue is not consumed, direct requests alone are served: %w", err)
	}
	return nil
}

// sharedErr returns why the present session does not consume the shared queue, nil if it
// does.
func (i *Instance) sharedErr() error {
	if s := i.session.Load(); s != nil {
		return s.shared.Err()
	}
	return errSessionClosed
}

// hasArrived reports whether the present session has once served all partitions that it
// should.
func (i *Instance) hasArrived() bool {
	s := i.session.Load()
	return s != nil && s.arrived.Load()
}

// Started returns nil once the instance has received requests. Before that, it returns
// the reason why it has not.
func (i *Instance) Started() error {
	if !i.served.Load() {
		return i.Ready()
	}
	return nil
}

// unsettledFor returns how long some partitions have not been served that should be.
func (i *Instance) unsettledFor() time.Duration {
	since := i.unsettled.Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}

// Run serves until ctx is done, then hands over its partitions, replies to the requests
// that were received, and returns nil. It returns
//
//   - a wait.ErrUnreachable if RabbitMQ or the database is out of reach for longer than the
//     options allow;
//   - a SetupError if the broker has never been set up as the service needs it;
//   - the dial's error if the broker refuses the login of an instance that has not served
//     yet (see [broker.LoginRefused]);
//   - a StoppedError if the other members do not let it take part.
func (i *Instance) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(ctx, func() { i.stopping.Store(true) })()
	if i.o.Cache != nil {
		i.cache = actor.NewCache(*i.o.Cache)
		defer i.cache.Close()
	}
	i.o.Store.OnHistoryChange(i.survey)
	close(i.begun)
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer end()
	running.Go(func() { i.watchSettled(background) })
	running.Go(func() {
		if err := i.watchDatabase(background); err != nil {
			stop(err)
		}
	})
	if i.cache != nil {
		running.Go(func() { i.o.Store.WatchForeignWrites(background, i.cache.SetTrusted) })
	}
	if w := i.watcher.Load(); w != nil {
		running.Go(func() { w.Run(background) })
	}
	return i.runGenerations(ctx, stop)
}

// errReconnect ends a session that is of no use any more although the broker is in reach.
var errReconnect = errors.New("a new session is needed")

const (
	// maxReconnectDelay spreads the dials of instances that lose their broker node together.
	maxReconnectDelay = 250 * time.Millisecond

	// minBetweenChanges is how seldom a session that ends is followed by another one at once. A
	// cause that ends each session must not go on for ever.
	minBetweenChanges = 10 * time.Second
)

// runSessions runs one session after another until ctx is done, or until trying again is
// of no use.
func (i *Instance) runSessions(ctx context.Context) error {
	retrier := wait.Retrier{Insist: i.o.Insist}
	var changed time.Time // when another host was last tried at once
	for {
		served := false
		err := i.runSession(ctx, i.sessions.Add(1), func() {
			served = true
			retrier.Succeeded()
		})
		if ctx.Err() != nil {
			return stopCause(ctx)
		}
		if !i.served.Load() && needsOperator(err) {
			return err
		}
		if errors.Is(err, errOutage) || errors.Is(err, errReconnect) {
			i.o.Log.Warn("session ended", zap.Error(err))
			continue // the next session waits for the database
		}
		message := "RabbitMQ or the database out of reach"
		if broker.Refused(err) {
			message = "RabbitMQ refused the connection"
		}
		if served && len(i.o.Broker.Addresses) > 1 && time.Since(changed) > minBetweenChanges {
			i.o.Log.Warn("session with RabbitMQ ended, trying all hosts", zap.Error(err))
			changed = time.Now()
			wait.For(ctx, rand.N(maxReconnectDelay))
			continue
		}
		i.o.Log.Warn(message, zap.Error(err), zap.Bool("insist", i.o.Insist))
		if err := retrier.Failed(ctx, err); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

func (i *Instance) ownership(g partition.Generation) ownership.Config {
	c := ownership.DefaultConfig()
	c.Name, c.Start = i.o.Name, i.o.Start
	c.First, c.Partitions, c.QueueType = g.First, g.Partitions, g.QueueType
	c.Weight = i.o.Weight
	c.Seed = rand.Uint64()
	return c
}

// runSession runs one session, when the database is in reach. It calls onServing when the
// session receives requests.
func (i *Instance) runSession(ctx context.Context, number int64, onServing func()) error {
	if !i.awaitDatabase(ctx) {
		return nil
	}
	s, err := openSession(ctx, i, number)
	if err != nil {
		return err
	}
	i.session.Store(s)
	defer i.session.Store(nil)
	defer i.serving.Store(false)
	defer context.AfterFunc(ctx, func() { i.serving.Store(false) })()
	return s.run(ctx, func() {
		onServing()
		i.serving.Store(ctx.Err() == nil)
		i.served.Store(true)
		i.o.Log.Info("serving")
	})
}

// awaitEvery is how often it is checked whether the database is in reach.
const awaitEvery = 20 * time.Millisecond

// awaitDatabase waits until the database is in reach. It returns false if ctx is done
// first.
func (i *Instance) awaitDatabase(ctx context.Context) bool {
	for !i.stored.Load() {
		if wait.For(ctx, awaitEvery) != nil {
			return false
		}
	}
	return ctx.Err() == nil
}

// A StoppedError says why an instance has ended without being asked to.
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

// Names of the shared queue, of the exchange that leads to it, which also takes the notifications,
// and of the direct exchange.
const (
	RequestQueue    = topology.RequestQueue
	RequestExchange = topology.RequestExchange
	DirectExchange  = topology.DirectExchange
)

// PartitionQueue returns the name of the queue of a partition with the number that it has in the database.
func PartitionQueue(partition int) string { return topology.PartitionQueue(partition) }

// QueueKind returns the type of a durable queue. It is "" if the queue was declared with other
// arguments than its type. found is false if there is no such queue, or its node is down.
func QueueKind(conn *amqp.Connection, queue string) (kind string, found bool, err error) {
	open, _ := topology.Over(conn, broker.Options{})
	return topology.KindOf(open, queue)
}

// DeclareQueues declares the partition queues of a generation that a repartition is to begin.
func DeclareQueues(conn *amqp.Connection, g partition.Generation, log *zap.Logger) error {
	open, _ := topology.Over(conn, broker.Options{})
	return topology.DeclareQueues(open, g, log)
}

// CheckQueues returns an error if one of the partition queues of a generation, or the shared queue, takes
// nothing in. It closes the connection.
func CheckQueues(ctx context.Context, conn *amqp.Connection, g partition.Generation) error {
	silent, err := repartition.ProberOver(repartition.Over(conn)).FindSilent(ctx, append(topology.QueuesOf(g), RequestQueue))
	if err == nil && len(silent) > 0 {
		err = silent
	}
	return err
}

// ChannelsNeeded returns how many channels a connection of an instance needs.
func ChannelsNeeded(partitions, instances int) int {
	return topology.ChannelsNeeded(partitions) + instances
}

// A SetupError means that the broker is not set up as the service needs it. Only the
// broker's operator can change that.
type SetupError = topology.SetupError
