package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

// Options say where the users are kept and how.
type Options struct {
	Host           string
	Port           int
	Database       string
	User           string
	Password       string
	SSLMode        string // as libpq's
	SSLRootCert    string // a file; "" for the system's
	MaxConnections int    // at least 2; WatchForeign takes 4
	Name           string // of this instance, shown in pg_stat_activity

	Keyring *Keyring

	// TokensInNotices puts access tokens into notifications.
	TokensInNotices bool

	// Tends has this store tend the tables: forget requests whose day is over, and
	// keep the days of the audit. That is for the instances that serve, whose
	// settings say for how long; what else opens the database leaves it to them.
	Tends bool

	// TendAfter is how long after Open that is done for the first time; 0: at once. An
	// instance that starts has more urgent things to do, and so has the database, all
	// the more where many start together.
	TendAfter time.Duration

	// AuditKeep is how long it is kept, at least, which request changed what; 0:
	// that is not noted, and what was is left as it is.
	AuditKeep time.Duration

	Log *zap.Logger
}

const (
	connectTimeout = 5 * time.Second
	// attemptTimeout bounds one try of one transaction or query, so that a
	// database that has stopped answering is noticed.
	attemptTimeout = 10 * time.Second
	// closeTimeout bounds how long connections may take to be closed.
	closeTimeout = 2 * time.Second
	// readTimeout bounds all tries of one read.
	readTimeout = 30 * time.Second
	// idleTimeout bounds how long a transaction waits for this process, which
	// may be frozen or cut off, while it holds locks that others wait for. None
	// waits for anything but what is computed here. Where the process is cut off in
	// the middle of what it sends, and only then, the server does not count the
	// time: then it is keepAlive by which it finds out.
	idleTimeout = "3s"
)

// keepAlive has the server find within some 12 s that a process is out of reach,
// whose locks it holds. Unix sockets do without.
var keepAlive = map[string]string{
	"tcp_keepalives_idle":     "6",
	"tcp_keepalives_interval": "2",
	"tcp_keepalives_count":    "3",
}

// planOnce has each statement planned once for a connection, and not each time:
// to plan one takes several times as long as to carry it out, and there is one
// good plan for each, by an index. It must be that one also while the tables are
// so small, or so new to the planner, that reading all of them seems better: they
// may have grown by a million rows before it looks again.
var planOnce = map[string]string{
	"plan_cache_mode":  "force_generic_plan",
	"enable_seqscan":   "off",
	"enable_hashjoin":  "off", // which would read all of an index
	"enable_mergejoin": "off", // likewise
	"jit":              "off", // which a plan that cannot do without would seem to deserve
}

// A Store is a database of users. It is safe for concurrent use.
type Store struct {
	pool    *pgxpool.Pool
	pinger  *pgx.Conn // of Ping alone; nil before the first
	keyring *Keyring
	log     *zap.Logger
	reveal  bool // access tokens in notices
	watches bool // has a connection for WatchForeign

	auditKeep time.Duration              // 0: no audit
	audit     atomic.Pointer[auditCount] // nil: not known

	finds                chan *find    // to the finders
	draws                chan *draw    // of user ids
	writes               chan *pending // to the committers
	commitTurn, findTurn *turn

	singles chan struct{} // holds a token for each write that is tried alone
	running sync.WaitGroup
	stopped chan struct{} // closed when nobody commits any more

	ctx   context.Context // done when the store closes: nothing new is begun
	close context.CancelFunc
	work  context.Context // done when the store is aborted: nothing is finished
	abort context.CancelFunc

	metrics  *metrics
	trips    *atomic.Int64
	outbox   outbox
	spares   spares
	readOnly atomic.Bool // a write found so since the last Ping
}

// Open returns the store in a database, which has to have the schema that
// Migrate makes: else the error is a *SchemaError. Close must be called.
func Open(ctx context.Context, o Options) (*Store, error) {
	config, err := PoolConfig(o)
	if err != nil {
		return nil, err
	}
	trips := new(atomic.Int64)
	countTrips(config, trips)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	if _, err := CheckSchema(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	s := &Store{
		pool:       pool,
		metrics:    newMetrics(),
		trips:      trips,
		keyring:    o.Keyring,
		log:        o.Log,
		reveal:     o.TokensInNotices,
		watches:    watches(o),
		auditKeep:  o.AuditKeep,
		stopped:    make(chan struct{}),
		finds:      make(chan *find, maxFinds),
		draws:      make(chan *draw, maxDraws),
		writes:     make(chan *pending, maxGroup),
		commitTurn: newTurn(),
		findTurn:   newTurn(),
		singles:    make(chan struct{}, max(1, o.MaxConnections/4)),
	}
	s.work, s.abort = context.WithCancel(context.Background())
	s.ctx, s.close = context.WithCancel(s.work)
	for range max(1, min(2, o.MaxConnections/4)) {
		s.running.Go(s.commitGroups)
		s.running.Go(s.findGroups)
	}
	s.running.Go(s.drawGroups)
	s.running.Go(s.sweepOutbox)
	if o.Tends {
		s.running.Go(func() { s.tend(o.TendAfter, "old requests not removed, trying again", s.emptyNextSlot) })
		if s.auditKeep > 0 {
			s.running.Go(func() { s.tend(o.TendAfter, "audit table not tended, trying again", s.tendAudit) })
		}
	}
	go func() {
		<-s.ctx.Done()
		s.running.Wait()
		close(s.stopped)
	}()
	return s, nil
}

// PoolConfig translates options for pgx.
func PoolConfig(o Options) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig("sslmode=" + o.SSLMode + " sslrootcert=" + quote(o.SSLRootCert) + " host=" + quote(o.Host) +
		" port=" + strconv.Itoa(o.Port) + " dbname=" + quote(o.Database) + " user=" + quote(o.User))
	if err != nil {
		return nil, fmt.Errorf("settings of the database: %w", err)
	}
	config.ConnConfig.Password = o.Password
	config.ConnConfig.ConnectTimeout = connectTimeout
	if config.ConnConfig.TLSConfig != nil {
		config.ConnConfig.TLSConfig.MinVersion = tls.VersionTLS12
	}
	config.ConnConfig.RuntimeParams = map[string]string{
		"application_name":                    "glotpod.ident/" + o.Name,
		"statement_timeout":                   "15s",
		"lock_timeout":                        "2s",
		"default_transaction_isolation":       "read committed",
		"idle_in_transaction_session_timeout": idleTimeout,
	}
	maps.Copy(config.ConnConfig.RuntimeParams, planOnce)
	maps.Copy(config.ConnConfig.RuntimeParams, keepAlive)
	config.MaxConns = int32(o.MaxConnections - 1) // and the one of Ping
	if watches(o) {
		config.MaxConns-- // the one of WatchForeign
	}
	config.MinIdleConns = 1
	config.MaxConnLifetimeJitter = config.MaxConnLifetime / 2 // those that are made together do not all end together
	return config, nil
}

// Ping says whether the database answers and can be written to. It uses a
// connection of its own, which the load on the others does not hold up. One
// goroutine at a time may call it.
func (s *Store) Ping(ctx context.Context) (err error) {
	if s.readOnly.Swap(false) && s.pinger != nil {
		s.pinger.Close(ctx) // what a new connection may do counts
	}
	if s.pinger == nil || s.pinger.IsClosed() {
		if s.pinger, err = pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig); err != nil {
			return fmt.Errorf("reaching the database: %w", err)
		}
	}
	var readOnly bool
	if err := s.pinger.QueryRow(ctx, "SELECT current_setting('transaction_read_only')::boolean").Scan(&readOnly); err != nil {
		return fmt.Errorf("reaching the database: %w", err)
	}
	if readOnly {
		return errors.New("reaching the database: it can be read only")
	}
	return nil
}

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
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if s.pinger != nil {
			ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
			defer cancel()
			s.pinger.Close(ctx)
		}
		s.closeIdle()
		s.pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(closeTimeout): // a database that is silent does not say farewell
	}
}

// The connections end one after another: a backend of PostgreSQL that ends keeps a core
// busy for some milliseconds, and where the cores are few, requests to other instances
// would wait for as many as end at once.
const (
	closePause  = 25 * time.Millisecond // between two, at most
	closePauses = 500 * time.Millisecond
)

// closeIdle ends the connections that are not in use, one after another.
func (s *Store) closeIdle() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	idle := s.pool.AcquireAllIdle(ctx)
	for i, conn := range idle {
		if i > 0 {
			time.Sleep(min(closePause, closePauses/time.Duration(len(idle))))
		}
		conn.Hijack().Close(ctx)
	}
}

// retry calls try until it succeeds, or fails as another try would, or ctx is done,
// or readTimeout is over.
func (s *Store) retry(ctx context.Context, try func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		err := try(attempt)
		cancel()
		if err == nil || classify(err) == failed {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
