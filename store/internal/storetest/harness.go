// Package storetest lets tests of the store and of its internal packages start a store
// with a database of its own. Only tests may import it. The TestMain of a package that does
// must call testservers.Main.
package storetest

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap/zaptest"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/postgres"
)

// A Harness is a store with its own database. Its methods end the test if they fail.
type Harness struct {
	*store.Store
	T       testing.TB
	DB      *pgx.Conn // a connection to the database that is not the store's
	Options store.Options

	Lease partition.Lease // of partition 0

	commits atomic.Int64
	cached  sync.Map // user id → user after the last write
}

// Options returns the options of a store on a database.
func Options(t testing.TB, db *testservers.Database) store.Options {
	return store.Options{
		Addresses: []string{db.Address()}, Database: db.Name, User: db.User, Password: db.Password,
		SSLMode: "disable", MaxConnections: 10, Name: t.Name(),
		Keyring:   store.NewKeyring([32]byte{1, 2, 3}),
		AuditKeep: 30 * 24 * time.Hour,
		Log:       zaptest.NewLogger(t),
	}
}

// Connect opens a connection that the end of the test closes.
func Connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// Migrate updates the schema of a database.
func Migrate(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	if _, err := store.Migrate(t.Context(), conn, func(int, string) {}); err != nil {
		t.Fatal(err)
	}
}

// migrated is a database with the current schema.
var migrated testservers.Template

// Start opens a store on a new database, in a cluster with 4 partitions. The harness has the
// lease of partition 0.
func Start(t testing.TB, change ...func(*store.Options)) *Harness {
	t.Helper()
	db := migrated.Postgres(t, func(template *testservers.Database) {
		conn, err := pgx.Connect(t.Context(), template.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		Migrate(t, conn)
	})
	return StartOn(t, db, change...)
}

// StartOn is like Start on an existing database.
func StartOn(t testing.TB, db *testservers.Database, change ...func(*store.Options)) *Harness {
	t.Helper()
	h := &Harness{T: t, DB: Connect(t, db.URL()), Options: Options(t, db)}
	Migrate(t, h.DB)
	for _, c := range change {
		c(&h.Options)
	}
	h.Store = h.OpenStore()
	h.Agree(4)
	h.Lease = h.ClaimPartition(0, 0)
	return h
}

// StartOnServer opens a store on a new database of a server, as Start does.
func StartOnServer(t testing.TB, server *localserver.Postgres, database string) *Harness {
	t.Helper()
	root := &Harness{T: t, DB: Connect(t, server.URL("postgres"))}
	root.Exec("CREATE DATABASE " + database)
	h := &Harness{T: t, DB: Connect(t, server.URL(database))}
	h.Options = Options(t, &testservers.Database{Host: server.Host, Port: server.Port, User: server.User, Password: server.Password, Name: database})
	Migrate(t, h.DB)
	h.Store = h.OpenStore()
	h.Agree(4)
	h.Lease = h.ClaimPartition(0, 0)
	return h
}

// Connect opens another connection to the database. The end of t closes it.
func (h *Harness) Connect(t testing.TB) *pgx.Conn {
	t.Helper()
	return Connect(t, h.DB.Config().ConnString())
}

// OpenStore opens another store on the same database.
func (h *Harness) OpenStore() *store.Store {
	h.T.Helper()
	s, err := store.Open(h.T.Context(), h.Options)
	if err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(s.Close)
	NotifierOf(s)
	h.T.Cleanup(func() { notifiers.Delete(s) })
	return s
}

// OpenPool opens a pool of connections that is not the store's.
func (h *Harness) OpenPool() *postgres.Pool {
	h.T.Helper()
	o := h.Options
	pool, err := postgres.Open(h.T.Context(), postgres.Settings{
		Addresses: o.Addresses, Database: o.Database, User: o.User, Password: o.Password, SSLMode: o.SSLMode,
		ApplicationName: "glotpod.ident/" + o.Name, MaxConnections: o.MaxConnections,
	})
	if err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(pool.Close)
	return pool
}

// Value returns the value that a query selects.
func (h *Harness) Value(sql string, args ...any) (v any) {
	h.T.Helper()
	if err := h.DB.QueryRow(h.T.Context(), sql, args...).Scan(&v); err != nil {
		h.T.Fatalf("%s: %v", sql, err)
	}
	return v
}

// Exec executes a statement.
func (h *Harness) Exec(sql string, args ...any) {
	h.T.Helper()
	if _, err := h.DB.Exec(h.T.Context(), sql, args...); err != nil {
		h.T.Fatalf("%s: %v", sql, err)
	}
}

// WaitUntil repeats a query until it selects true.
func (h *Harness) WaitUntil(sql string, args ...any) {
	h.T.Helper()
	for deadline := time.Now().Add(time.Minute); h.Value(sql, args...) != true; {
		if time.Now().After(deadline) {
			h.T.Fatalf("never true: %s", sql)
		}
	}
}

// Long says that random tests make all their rounds, which takes hours.
var Long = os.Getenv("GLOTPOD_IDENT_TEST_LONG") != ""

// SequentialScans selects how often a table of the service was read from one end to the other.
const SequentialScans = `SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables
	WHERE relname IN ('users', 'services', 'ident_partitions', 'ident_held_back', 'ident_sealed') OR relname LIKE 'ident\_log\_%'`

// LogDay is an expression: the table of the log for the day that is $1 days from today, or
// NULL.
const LogDay = "to_regclass('ident_log_' || to_char((now() AT TIME ZONE 'UTC')::date + $1::int, 'YYYYMMDD'))"
