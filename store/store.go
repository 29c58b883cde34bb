package store

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/commit"
	"github.com/glotpod/ident/store/internal/commitstate"
	"github.com/glotpod/ident/store/internal/foreign"
	"github.com/glotpod/ident/store/internal/history"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/leases"
	"github.com/glotpod/ident/store/internal/outbox"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/reads"
)

// A Keyring encrypts access tokens. It is safe for concurrent use.
type Keyring = keyring.Keyring

// NewKeyring returns a keyring that encrypts with the first of keys and decrypts with each of
// them. There must be at least one key.
func NewKeyring(keys ...[32]byte) *Keyring { return keyring.New(keys...) }

// Options say which database a store uses and how.
type Options struct {
	// Addresses has the server of the database in the form host:port, or several: then the one
	// that accepts writes is used. A host that begins with "/" is the directory of a Unix socket.
	Addresses []string

	Database       string
	User           string
	Password       string
	SSLMode        string // as in libpq
	SSLRootCert    string // a file; "" means the system's certificates
	SSLCert        string // a file; "" means no client certificate
	SSLKey         string // a file; set if and only if SSLCert is
	MaxConnections int    // at least 2; WatchForeignWrites needs 4, and a connection for leases 5
	Name           string // of this instance, shown in pg_stat_activity

	// ReadPassword, if not nil, returns the password for each new connection. Password is
	// that of the start.
	ReadPassword func() (string, error)

	Keyring *Keyring

	// TokensInNotifications puts access tokens into notifications.
	TokensInNotifications bool

	// Maintain makes this store create and drop days of the log, count the user ids that are
	// left, and end all leases when the database went back. Instances that serve do that, because
	// their settings say how long the log is kept. Other programs leave it to them.
	Maintain bool

	// MaintainAfter is the delay after Open until the first maintenance. When an instance
	// starts, it and the database have more urgent work, especially if many start together.
	MaintainAfter time.Duration

	// AuditKeep is how long the record of which request changed what is kept, at least. It is
	// kept for a day in any case.
	AuditKeep time.Duration

	Log *zap.Logger

	patience time.Duration // how long writes are attempted again; 0 means the default
}

// A Store is a database of users. It is safe for concurrent use.
type Store struct {
	pool    *postgres.Pool
	keyring *Keyring
	log     *zap.Logger

	reader    *reads.Reader
	committer *commit.Committer
	userIDs   *commit.UserIDs
	outbox    *outbox.Outbox
	leases    *leases.Table
	days      *changelog.Days
	changelog *changelog.Maintainer
	foreign   *foreign.Watcher // nil: there are too few connections
	seen      *history.Seen
	keeper    *history.Keeper

	running sync.WaitGroup // the goroutines of the store
	stopped chan struct{}  // closed when these have returned

	ctx   context.Context // done when the store closes: nothing new begins
	close context.CancelFunc
	work  context.Context // done when the store is aborted: nothing is completed
	abort context.CancelFunc

	metrics *metrics
}

// A PoolerError means that a connection pooler between this program and the database does not
// keep sessions.
type PoolerError = postgres.PoolerError

func checkDatabase(ctx context.Context, pool *postgres.Pool) error {
	if err := pool.CheckSessions(ctx); err != nil {
		return err
	}
	_, err := CheckSchema(ctx, pool)
	return err
}

// Open opens the store of a database. If its schema is not the one that Migrate makes, the
// error is a *SchemaError, and without sessions a *PoolerError. Close must be called.
func Open(ctx context.Context, o Options) (*Store, error) {
	pool, err := postgres.Open(ctx, o.settings())
	if err != nil {
		return nil, err
	}
	if err := checkDatabase(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	s := &Store{
		pool:    pool,
		metrics: newMetrics(),
		keyring: o.Keyring,
		log:     o.Log,
		days:    changelog.NewDays(pool),
		seen:    history.NewSeen(),
		stopped: make(chan struct{}),
	}
	s.keeper = history.NewKeeper(history.Options{Pool: pool, Seen: s.seen, Log: o.Log, LockClass: leases.LockClass,
		Changes: s.metrics.histories, Losses: s.metrics.losses})
	s.keeper.OnChange(s.days.Forget)
	if o.Maintain {
		if err := s.keeper.Start(ctx); err != nil {
			pool.Close()
			return nil, err
		}
	}
	s.work, s.abort = context.WithCancel(context.Background())
	s.ctx, s.close = context.WithCancel(s.work)
	s.outbox = outbox.New(pool, s.days, o.Keyring, o.Log)
	s.userIDs = commit.NewUserIDs(s.ctx, s.stopped, pool, s.days, s.seen, o.Log)
	s.reader = reads.New(s.ctx, s.stopped, pool, s.days, o.Keyring, reads.Metrics{BatchSize: s.metrics.lookups, Unreadable: s.metrics.unreadable}, o.Log)
	s.leases = leases.NewTable(pool, s.days, s.outbox, s.seen, o.Log)
	s.changelog = changelog.NewMaintainer(pool, o.AuditKeep, o.Log)
	if o.watchesForeignWrites() {
		s.foreign = foreign.NewWatcher(pool, s.metrics.foreign, o.Log)
	}
	s.committer = newCommitter(s, &o)
	for range max(1, min(2, o.MaxConnections/4)) {
		s.running.Go(s.committer.Work)
		s.running.Go(s.reader.Work)
	}
	s.running.Go(s.userIDs.Work)
	s.running.Go(func() { s.outbox.WriteUntil(s.work, s.ctx.Done()) })
	if o.Maintain {
		s.running.Go(func() {
			maintain(s.ctx, s.log, o.MaintainAfter, "user ids that are left not counted, trying again", s.userIDs.CountLeft)
		})
		s.running.Go(func() {
			maintain(s.ctx, s.log, o.MaintainAfter, "log not maintained, trying again", s.changelog.Maintain)
		})
	}
	go func() {
		<-s.ctx.Done()
		s.running.Wait()
		close(s.stopped)
	}()
	return s, nil
}

func newCommitter(s *Store, o *Options) *commit.Committer {
	return commit.New(commit.Config{
		Pool:                  s.pool,
		Log:                   s.log,
		Metrics:               s.metrics.commit(),
		Days:                  s.days,
		Outbox:                s.outbox,
		UserIDs:               s.userIDs,
		Seen:                  s.seen,
		Keyring:               s.keyring,
		TokensInNotifications: o.TokensInNotifications,
		LogUnreadable:         s.reader.LogUnreadable,
		MaxAlone:              max(1, o.MaxConnections/4),
		Patience:              cmp.Or(o.patience, commitstate.DefaultPatience),
		Running:               &s.running,
		Closing:               s.ctx,
		Working:               s.work,
		Stopped:               s.stopped,
	})
}

// Commit implements [actor.Store]. When an attempt has begun, Commit waits for its end
// even if ctx is done. A write that is refused whatever is stored belongs to no user and
// needs no lease.
func (s *Store) Commit(ctx context.Context, lease partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
	outcomes, err := s.committer.Commit(ctx, lease, writes)
	if err == nil && outcomes[0].Refusal == actor.UserIDTaken {
		if err := s.userIDs.SkipTaken(ctx, writes[0].UserID); err != nil {
			return nil, postgres.LogError(ctx, s.log, "setting the sequence of user ids", err)
		}
	}
	return outcomes, err
}

// ReservedUserID implements [actor.Store].
func (s *Store) ReservedUserID() int64 { return s.userIDs.TakeReserved() }

// ReturnUserID implements [actor.Store].
func (s *Store) ReturnUserID(id int64) { s.userIDs.Return(id) }

// NewUserID implements [actor.Store].
func (s *Store) NewUserID(ctx context.Context, create *actor.Write) (id int64, decided *actor.Outcome, err error) {
	id, refusal, err := s.userIDs.Next(ctx, create)
	if refusal != nil {
		outcomes, failed := s.committer.Commit(ctx, partition.Lease{}, []*actor.Write{create.Refused(refusal)})
		if failed != nil {
			return 0, nil, failed
		}
		if outcomes[0].Refusal != commit.NoReplay {
			return 0, &outcomes[0], nil
		}
		id, _, err = s.userIDs.Next(ctx, nil)
	}
	if err != nil {
		return 0, nil, postgres.LogError(ctx, s.log, "taking a user id", err)
	}
	return id, nil, nil
}

// PoolConfig returns the options for a pool of pgx.
func PoolConfig(o Options) (*pgxpool.Config, error) { return o.settings().PoolConfig() }

// Connect opens one connection. If it has no session of its own, the error is a *PoolerError.
func Connect(ctx context.Context, o Options) (*pgx.Conn, error) { return o.settings().Connect(ctx) }

// settings returns the settings of the pool. MaxConnections includes connections that are
// not in the pool: for Ping, for WatchForeignWrites, and for leases.
func (o Options) settings() postgres.Settings {
	s := postgres.Settings{
		Addresses: o.Addresses, Database: o.Database, User: o.User, Password: o.Password,
		SSLMode: o.SSLMode, SSLRootCert: o.SSLRootCert, SSLCert: o.SSLCert, SSLKey: o.SSLKey,
		ApplicationName: "glotpod.ident/" + o.Name,
		MaxConnections:  o.MaxConnections - 1, // for Ping
		ReadPassword:    o.ReadPassword,
		Reserve:         o.MaxConnections >= minReserving,
	}
	if o.watchesForeignWrites() {
		s.MaxConnections-- // for WatchForeignWrites
	}
	if s.Reserve {
		s.MaxConnections--
	}
	return s
}

// minReserving is the number of connections from which on one is reserved for leases. With
// fewer, only two would be left for all other work, or one.
const minReserving = 5

// watchesForeignWrites reports whether there is a connection for WatchForeignWrites: not if
// only one would be left for all other work.
func (o Options) watchesForeignWrites() bool { return o.MaxConnections >= 4 }

// Ping returns an error unless the database answers and accepts writes, a new connection can
// be made, and there is one for reads and writes. If only new ones cannot be made, the error
// is a [wait.ErrNoNewConnection]. Ping uses its own connection, so that load on the others
// does not delay it by more than a second. One goroutine at a time may call Ping.
func (s *Store) Ping(ctx context.Context) error { return s.pool.Ping(ctx) }

// RoundTrips returns the number of round trips to the database since Open. Opening and
// closing a connection count as a few.
func (s *Store) RoundTrips() int64 { return s.pool.RoundTrips() }

// Abort cancels everything that is under way. Callers that wait get an error, and writes may
// have been committed or not. After Abort, only Close may be called.
func (s *Store) Abort() { s.abort() }

// Close closes the store. It waits for what is under way, unless the store was aborted or the
// database is unreachable. No Ping may be under way.
func (s *Store) Close() {
	s.close()
	<-s.stopped
	s.abort()
	s.pool.Close()
}

// IsUnreachable reports whether an error means that the database is unreachable or that the
// connection was lost.
func IsUnreachable(err error) bool { return postgres.IsUnreachable(err) }

// Find implements [actor.Store].
func (s *Store) Find(ctx context.Context, keys *actor.Lookup) (*actor.User, error) {
	return s.reader.Find(ctx, keys)
}

// List implements [actor.Store].
func (s *Store) List(ctx context.Context, page *actor.Page) (actor.UserPage, error) {
	return s.reader.List(ctx, page)
}

// Changes implements [actor.Store].
func (s *Store) Changes(ctx context.Context, page *actor.ChangesPage) (actor.ChangePage, *actor.Refusal, error) {
	return s.reader.Changes(ctx, page)
}
