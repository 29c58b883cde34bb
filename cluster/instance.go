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

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A Store is what an instance needs of the database.
type Store interface {
	actor.Store
	topology.RebindLock
	notify.Outbox

	// RoundTrips says how often the database was asked for something.
	RoundTrips() int64

	// Ping says whether the database can be read and written.
	Ping(ctx context.Context) error

	// Abort breaks off all that is under way. The store is good for nothing
	// afterwards.
	Abort()

	// SetNotificationSink has each notification handed to sink after its commit, in each
	// user's order; with nil, they stay stored.
	SetNotificationSink(sink func(actor.PendingNotification))

	// Claim makes claims, and returns for each an ownership.Claimed or an
	// ownership.ClaimRefused. After an error, which were made is not known.
	Claim(ctx context.Context, claims []ownership.Claim) ([]ownership.Event, error)

	// Release ends leases, as far as they are not over.
	Release(ctx context.Context, leases []partition.Lease) error

	// HandOver ends leases in favour of others, and says for each whether it did.
	HandOver(ctx context.Context, all []ownership.HandOver) ([]ownership.HandedOver, error)

	// Survey returns who holds the partitions.
	Survey(ctx context.Context) ([]ownership.Row, error)

	// WatchForeignWrites says until ctx is done whether what was read of users is
	// sure to be changed by this cluster alone.
	WatchForeignWrites(ctx context.Context, trust func(bool))
}

// Options say how an instance serves.
type Options struct {
	Store  Store
	Broker broker.Options

	Name       string // unique among the instances that run
	Start      int64  // greater than that of each earlier run under this name
	Version    string // of the program, for people
	Partitions int
	QueueType  string   // of the partitions' queues: "quorum" or "classic"
	Secret     [][]byte // known to the cluster's instances alone; the first seals

	Prefetch int // requests taken from the shared queue and not yet answered
	Mailbox  int // requests that wait for one user, beside those of the partition's queue
	Limits   msgpack.Limits
	InFlight int64               // bytes of the bodies of requests that are being carried out
	Warm     *actor.CacheOptions // bounds on the users who are kept in memory; nil: none are
	Insist   bool
	Grace    time.Duration // how long handing over and draining may take

	Log    *zap.Logger
	Tracer trace.Tracer // makes the spans; nil: no tracing
}

const (
	connectTimeout = 8 * time.Second

	// pingEvery and pingTimeout bound how long the loss of the database goes
	// unnoticed while nobody asks for anything.
	pingEvery   = time.Second
	pingTimeout = 5 * time.Second

	// unsettledLimit is how long an instance that has had its partitions may be
	// without some that it should own, and count as ready: they move one after
	// another.
	unsettledLimit = 10 * time.Second

	// outageLimit is how long the database may be out of reach until the
	// instance leaves its partitions to those who can reach it.
	outageLimit = 6 * time.Second
)

// An Instance is a member of the cluster: it takes requests from RabbitMQ,
// carries them out or passes them on to whoever holds the user's partition, and
// answers them.
type Instance struct {
	o       Options
	started time.Time
	serving atomic.Bool // requests are being taken
	ending  atomic.Bool // Run is to return, and hands over first what there is
	served  atomic.Bool // requests have been taken
	stored  atomic.Bool // the database answered last time
	metrics *metrics
	traffic traffic

	// Set by Run before begun is closed, and not changed afterwards.
	begun       chan struct{}
	coordinator *coordinator
	cache       *actor.Cache

	unsettled atomic.Int64 // since when the instance does not own all that it should, in Unix nanoseconds; 0: it does

	session atomic.Pointer[session] // the present one
}

// New returns an instance that does nothing before Run.
func New(o Options) *Instance {
	return &Instance{o: o, started: time.Now(), metrics: newMetrics(), begun: make(chan struct{})}
}

// Ready returns nil while the instance takes requests and can carry them out, and
// has once owned what it should, or else what keeps it from that. So whoever waits for
// it before another instance is stopped does not have that one's partitions move while
// this one's still do.
func (i *Instance) Ready() error {
	switch {
	case i.ending.Load():
		return errors.New("not serving: asked to end, or told to by other instances")
	case !i.serving.Load():
		return errors.New("not serving: connecting to RabbitMQ, or waiting for partitions")
	case !i.stored.Load():
		return errors.New("the database is out of reach")
	case !i.hasArrived():
		return errors.New("waiting for partitions that are to be this instance's")
	case i.unsettledFor() > unsettledLimit:
		return errors.New("partitions that are this instance's could not be taken")
	}
	return nil
}

// hasArrived says whether the present session has once owned all that it should.
func (i *Instance) hasArrived() bool {
	s := i.session.Load()
	return s != nil && s.arrived.Load()
}

// Started returns nil once the instance has taken requests, or else what keeps it
// from that.
func (i *Instance) Started() error {
	if !i.served.Load() {
		return i.Ready()
	}
	return nil
}

// unsettledFor says how long the instance has not owned all that it should.
func (i *Instance) unsettledFor() time.Duration {
	since := i.unsettled.Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}

// Run serves until ctx is done, then hands over its partitions, answers what was
// taken, and returns nil. It returns an ErrUnreachable where RabbitMQ or the
// database is out of reach for longer than the options allow, a SetupError where
// the broker has never been set up for it, the dial's error where the broker refuses
// the login of an instance that has not served yet (see broker.LoginRefused), and a
// StoppedError where other instances do not let it take part.
func (i *Instance) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(ctx, func() { i.ending.Store(true) })()
	if i.o.Warm != nil {
		i.cache = actor.NewCache(*i.o.Warm)
		defer i.cache.Close()
	}
	var err error
	i.coordinator, err = newCoordinator(i.ownership(), i.o.Store, i.o.Log, func(reason ownership.StopReason, why string) {
		stop(&StoppedError{reason, why})
	})
	if err != nil {
		return err
	}

	close(i.begun)
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer end()
	running.Go(func() { i.coordinator.run(background) })
	running.Go(func() { i.watchSelf(background) })
	running.Go(func() {
		if err := i.watchDatabase(background); err != nil {
			stop(err)
		}
	})
	if i.cache != nil {
		running.Go(func() { i.o.Store.WatchForeignWrites(background, i.cache.SetTrusted) })
	}

	patience := Patience{Insist: i.o.Insist}
	for number := int64(1); ; number++ {
		err := i.serve(ctx, number, patience.Succeeded)
		if ctx.Err() != nil {
			return failure(ctx)
		}
		var unfit *SetupError
		if (errors.As(err, &unfit) || broker.LoginRefused(err)) && !i.served.Load() { // else it was fit, and may be so again
			return err
		}
		if errors.Is(err, errOutage) || errors.Is(err, errAnew) {
			i.o.Log.Warn("session ended", zap.Error(err))
			continue // when the database is in reach
		}
		message := "RabbitMQ or the database out of reach"
		if broker.Refused(err) {
			message = "RabbitMQ refused the connection"
		}
		i.o.Log.Warn(message, zap.Error(err), zap.Bool("insist", i.o.Insist))
		if err := patience.Failed(ctx, err); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

func (i *Instance) ownership() ownership.Config {
	c := ownership.DefaultConfig()
	c.Name, c.Start = i.o.Name, i.o.Start
	c.Partitions, c.QueueType = i.o.Partitions, i.o.QueueType
	c.Seed = rand.Uint64()
	c.SuspectAfter = suspectAfter(i.o)
	return c
}

// suspectAfter is how long a member may be silent. The broker drops a frozen
// connection within three of its heartbeats: who is believed dead after that has
// lost its channels.
func suspectAfter(o Options) time.Duration {
	c := ownership.DefaultConfig()
	return max(c.SuspectAfter, 3*o.Broker.Heartbeat+c.Heartbeat)
}

// failure returns why the instance must end, nil if it was asked to.
func failure(ctx context.Context) error {
	cause := context.Cause(ctx)
	var stopped *StoppedError
	if errors.Is(cause, ErrUnreachable) || errors.As(cause, &stopped) {
		return cause
	}
	return nil
}

// serve runs one session, when the database is in reach. It calls reached when
// the session takes requests.
func (i *Instance) serve(ctx context.Context, number int64, reached func()) error {
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
		reached()
		i.serving.Store(ctx.Err() == nil)
		i.served.Store(true)
		i.o.Log.Info("serving")
	})
}

const awaitEvery = 20 * time.Millisecond

// awaitDatabase waits until the database is in reach, and returns false when ctx
// is done.
func (i *Instance) awaitDatabase(ctx context.Context) bool {
	for !i.stored.Load() {
		select {
		case <-time.After(awaitEvery):
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
}

// errAnew ends a session that is of no use any more, though the broker is in
// reach.
var errAnew = errors.New("a new session is needed")

var errOutage = fmt.Errorf("the database has been out of reach for more than %v", outageLimit)

// watchDatabase looks after the database until ctx is done, or returns an
// ErrUnreachable. A short outage ends no session: reads fail, and writes wait.
// In a longer one the partitions are left to instances that may reach it.
func (i *Instance) watchDatabase(ctx context.Context) error {
	patience := Patience{Insist: i.o.Insist}
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		begun := time.Now()
		err := patience.Retry(ctx, func(err error) {
			i.stored.Store(false)
			i.o.Log.Warn("database out of reach", zap.Error(err))
			if s := i.session.Load(); s != nil && time.Since(begun) > outageLimit {
				s.fail(errOutage)
			}
		}, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, pingTimeout)
			defer cancel()
			return i.o.Store.Ping(ctx)
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			i.stored.Store(false)
			i.o.Store.Abort()
			return err
		}
		i.stored.Store(true)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// watchSelf looks each second at what this instance owns, and how busy it is,
// until ctx is done.
func (i *Instance) watchSelf(ctx context.Context) {
	ticker := time.NewTicker(measureEvery)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			i.traffic.note(now, i.metrics.durationCounts)
			status, ok := i.coordinator.look()
			switch {
			case !ok:
				return
			case status.Settled():
				i.unsettled.Store(0)
				if s := i.session.Load(); s != nil {
					s.settled(status)
				}
			default:
				i.unsettled.CompareAndSwap(0, now.UnixNano())
			}
		case <-ctx.Done():
			return
		}
	}
}
