package store

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/audit"
	"github.com/glotpod/ident/store/internal/foreign"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/leases"
	"github.com/glotpod/ident/store/internal/outbox"
	"github.com/glotpod/ident/store/internal/postgres"
)

// A Keyring encrypts access tokens. It is safe for concurrent use.
type Keyring = keyring.Keyring

// NewKeyring returns a keyring that seals with the first of keys and opens with each of
// them. There must be at least one key.
func NewKeyring(keys ...[32]byte) *Keyring { return keyring.New(keys...) }

// Options say where the users are kept and how.
type Options struct {
	Host           string
	Port           int
	Database       string
	User           string
	Password       string
	SSLMode        string // as libpq's
	SSLRootCert    string // a file; "" for the system's
	MaxConnections int    // at least 2; WatchForeignWrites takes 4
	Name           string // of this instance, shown in pg_stat_activity

	Keyring *Keyring

	// TokensInNotifications puts access tokens into notifications.
	TokensInNotifications bool

	// Maintain has this store tend the tables: forget requests whose day is over, and
	// keep the days of the audit. That is for the instances that serve, whose
	// settings say for how long; what else opens the database leaves it to them.
	Maintain bool

	// MaintainAfter is how long after Open that is done for the first time; 0: at once. An
	// instance that starts has more urgent things to do, and so has the database, all
	// the more where many start together.
	MaintainAfter time.Duration

	// AuditKeep is how long it is kept, at least, which request changed what; 0:
	// that is not noted, and what was is left as it is.
	AuditKeep time.Duration

	Log *zap.Logger
}

// A Store is a database of users. It is safe for concurrent use.
type Store struct {
	pool    *postgres.Pool
	keyring *Keyring
	log     *zap.Logger

	reader    *reader
	committer *committer
	userIDs   *userIDs
	outbox    *outbox.Outbox
	leases    *leases.Table
	audit     *audit.Maintainer // nil: changes are not recorded
	foreign   *foreign.Watcher  // nil: there are too few connections

	running sync.WaitGroup
	stopped chan struct{} // closed when nobody commits any more

	ctx   context.Context // done when the store closes: nothing new is begun
	close context.CancelFunc
	work  context.Context // done when the store is aborted: nothing is finished
	abort context.CancelFunc

	metrics *metrics
}

// Open returns the store in a database, which has to have the schema that
// Migrate makes: else the error is a *SchemaError. Close must be called.
func Open(ctx context.Context, o Options) (*Store, error) {
	pool, err := postgres.Open(ctx, o.settings())
	if err != nil {
		return nil, err
	}
	if _, err := CheckSchema(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	s := &Store{
		pool:    pool,
		metrics: newMetrics(),
		keyring: o.Keyring,
		log:     o.Log,
		outbox:  outbox.New(pool, o.Keyring, o.Log),
		stopped: make(chan struct{}),
	}
	s.work, s.abort = context.WithCancel(context.Background())
	s.ctx, s.close = context.WithCancel(s.work)
	s.userIDs = newUserIDs(s.ctx, s.stopped, pool)
	s.reader = newReader(s.ctx, s.stopped, pool, &o, s.metrics)
	s.leases = leases.NewTable(pool, s.outbox, o.Log)
	if o.AuditKeep > 0 {
		s.audit = audit.NewMaintainer(pool, o.AuditKeep, o.Log)
	}
	if o.watchesForeignWrites() {
		s.foreign = foreign.NewWatcher(pool, s.metrics.foreign, o.Log)
	}
	s.committer = s.newCommitter(&o)
	for range max(1, min(2, o.MaxConnections/4)) {
		s.running.Go(s.committer.queue.Work)
		s.running.Go(s.reader.lookups.Work)
	}
	s.running.Go(s.userIDs.requests.Work)
	s.running.Go(func() { s.outbox.Sweep(s.work, s.ctx.Done()) })
	if o.Maintain {
		s.running.Go(func() {
			maintain(s.ctx, s.log, o.MaintainAfter, "old requests not removed, trying again", s.emptyNextSlot)
		})
		if s.audit != nil {
			s.running.Go(func() {
				maintain(s.ctx, s.log, o.MaintainAfter, "audit table not maintained, trying again", s.audit.Maintain)
			})
		}
	}
	go func() {
		<-s.ctx.Done()
		s.running.Wait()
		close(s.stopped)
	}()
	return s, nil
}

func (s *Store) newCommitter(o *Options) *committer {
	c := &committer{
		pool:     s.pool,
		log:      s.log,
		metrics:  s.metrics,
		planner:  planner{keyring: s.keyring, audited: s.audit != nil},
		reserved: &s.userIDs.reserved,
		outbox:   s.outbox,
		decider: decider{
			keyring:               s.keyring,
			tokensInNotifications: o.TokensInNotifications,
			log:                   s.log,
			panics:                s.metrics.panics,
			logUnreadable:         s.reader.logUnreadable,
		},
		soloSlots: make(chan struct{}, max(1, o.MaxConnections/4)),
		running:   &s.running,
		closing:   s.ctx,
		working:   s.work,
	}
	c.start(s.stopped)
	return c
}

// PoolConfig translates options for pgx.
func PoolConfig(o Options) (*pgxpool.Config, error) { return o.settings().PoolConfig() }

// settings leaves some connections to Ping and WatchForeignWrites.
func (o Options) settings() postgres.Settings {
	s := postgres.Settings{
		Host: o.Host, Port: o.Port, Database: o.Database, User: o.User, Password: o.Password,
		SSLMode: o.SSLMode, SSLRootCert: o.SSLRootCert,
		ApplicationName: "glotpod.ident/" + o.Name,
		MaxConnections:  o.MaxConnections - 1, // the one of Ping
	}
	if o.watchesForeignWrites() {
		s.MaxConnections-- // the one of WatchForeignWrites
	}
	return s
}

// watchesForeignWrites reports whether there is a connection for WatchForeignWrites: not if
// only one would be left for all other work.
func (o Options) watchesForeignWrites() bool { return o.MaxConnections >= 4 }

// Ping says whether the database answers and can be written to. It uses a
// connection of its own, which the load on the others does not hold up. One
// goroutine at a time may call it.
func (s *Store) Ping(ctx context.Context) error { return s.pool.Ping(ctx) }

// RoundTrips says how often the store has sent something to the database, which is
// once for each round trip but for a few when a connection is opened or ends.
func (s *Store) RoundTrips() int64 { return s.pool.RoundTrips() }

// Abort breaks off all that is under way: who waits for it is told an error, and
// does not know whether it was done. Afterwards the store is good for nothing
// but to be closed.
func (s *Store) Abort() { s.abort() }

// Close ends the store. What is under way is finished, unless the store was
// aborted or the database is out of reach. Nobody may be using Ping.
func (s *Store) Close() {
	s.close()
	<-s.stopped
	s.abort()
	s.pool.Close()
}

// IsUnreachable says that an error came of a database that is out of reach, or was
// lost on the way.
func IsUnreachable(err error) bool { return postgres.Classify(err) == postgres.Unknown }

// Find implements [actor.Store].
func (s *Store) Find(ctx context.Context, keys *actor.Lookup) (*actor.User, error) {
	return s.reader.Find(ctx, keys)
}

// List implements [actor.Store].
func (s *Store) List(ctx context.Context, page *actor.Page) (users []actor.User, nextAfterID int64, err error) {
	return s.reader.List(ctx, page)
}
