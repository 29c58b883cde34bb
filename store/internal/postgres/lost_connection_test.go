package postgres_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// A fragileConn breaks when it has carried a number of bytes.
type fragileConn struct {
	net.Conn

	reads, writes atomic.Int64 // bytes left; negative means no limit
	garble        bool         // before replies break off, there are zeros, which are no message
}

func (c *fragileConn) Read(b []byte) (int, error) { return c.limit(&c.reads, b, c.Conn.Read) }

func (c *fragileConn) Write(b []byte) (int, error) { return c.limit(&c.writes, b, c.Conn.Write) }

func (c *fragileConn) limit(left *atomic.Int64, b []byte, move func([]byte) (int, error)) (int, error) {
	limit := left.Load()
	if limit < 0 {
		return move(b)
	}
	n, err := 0, error(nil)
	if limit > 0 {
		n, err = move(b[:min(int64(len(b)), limit)])
		left.Add(int64(-n))
	}
	if c.garble && left == &c.reads && n == 0 && err == nil {
		c.Conn.Close() // for the next read
		c.garble = false
		clear(b)
		return len(b), nil
	}
	if err == nil && (n == 0 || n < len(b) && left == &c.writes) {
		c.Conn.Close()
		rest, err := move(b[n:])
		return n + rest, err
	}
	return n, err
}

// TestLostConnection: wherever a connection breaks in a transaction, the error has the class
// Unknown.
func TestLostConnection(t *testing.T) {
	d := testservers.Postgres(t)
	db := storetest.Connect(t, d.URL())
	if _, err := db.Exec(t.Context(), "CREATE TABLE numbers (n int)"); err != nil {
		t.Fatal(err)
	}
	t.Run("request_is_cut", func(t *testing.T) {
		sweep(t, d, func(c *fragileConn, n int64) { c.writes.Store(n) })
	})
	t.Run("reply_is_cut", func(t *testing.T) {
		sweep(t, d, func(c *fragileConn, n int64) { c.reads.Store(n) })
	})
	t.Run("reply_is_garbled", func(t *testing.T) {
		sweep(t, d, func(c *fragileConn, n int64) {
			c.garble = true
			c.reads.Store(n)
		})
	})
	t.Run("server_ends_session", func(t *testing.T) { testSessionEnds(t, d, db) })
}

// sweep breaks connections after ever more bytes, until a transaction succeeds.
func sweep(t *testing.T, d *testservers.Database, limit func(c *fragileConn, n int64)) {
	broken := 0
	for n := int64(0); ; n += 3 {
		conn, fragile := connectFragile(t, d)
		limit(fragile, n)
		err := postgres.TransactOn(t.Context(), conn, transact)
		postgres.CloseConn(conn)
		if err == nil {
			break
		}
		broken++
		if class := postgres.Classify(err); class != postgres.Unknown {
			t.Errorf("after %d bytes: class %v: %v", n, class, err)
		}
	}
	if broken < 20 {
		t.Errorf("the connection broke in %d places, want more", broken)
	}
}

func connectFragile(t *testing.T, d *testservers.Database) (*pgx.Conn, *fragileConn) {
	t.Helper()
	config, err := pgx.ParseConfig(d.URL())
	if err != nil {
		t.Fatal(err)
	}
	fragile := new(fragileConn)
	fragile.reads.Store(-1)
	fragile.writes.Store(-1)
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		fragile.Conn = conn
		return fragile, err
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return conn, fragile
}

// transact writes in a transaction of three round trips.
func transact(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, "begin"); err != nil {
		return fmt.Errorf("beginning: %w", err)
	}
	batch := new(pgx.Batch)
	batch.Queue("SELECT count(*) FROM numbers").QueryRow(func(row pgx.Row) error { return row.Scan(nil) })
	batch.Queue("INSERT INTO numbers VALUES ($1)", 1)
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if _, err := conn.Exec(ctx, "commit"); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	return nil
}

// testSessionEnds: if the server ends the session, that error and all that follow it on the
// connection have the class Unknown.
func testSessionEnds(t *testing.T, d *testservers.Database, db *pgx.Conn) {
	for place, run := range map[string]func(conn *pgx.Conn, end func()) []error{
		"idle": func(conn *pgx.Conn, end func()) []error {
			end()
			return []error{transact(t.Context(), conn)}
		},
		"in_batch": func(conn *pgx.Conn, _ func()) (errs []error) {
			batch := new(pgx.Batch)
			batch.Queue("begin")
			batch.Queue("INSERT INTO numbers VALUES (2)")
			batch.Queue("SELECT pg_terminate_backend(pg_backend_pid())")
			batch.Queue("commit")
			results := conn.SendBatch(t.Context(), batch)
			for range batch.Len() {
				if _, err := results.Exec(); err != nil {
					errs = append(errs, err)
				}
			}
			return append(errs, results.Close())
		},
		"in_rows": func(conn *pgx.Conn, end func()) []error {
			rows, _ := conn.Query(t.Context(), "SELECT repeat('x', 1000), pg_sleep(0.001) FROM generate_series(1, 100000)")
			rows.Next()
			end()
			for rows.Next() {
			}
			return []error{rows.Err()}
		},
	} {
		conn, _ := connectFragile(t, d)
		errs := run(conn, func() {
			if _, err := db.Exec(t.Context(), "SELECT pg_terminate_backend($1, 10000)", int(conn.PgConn().PID())); err != nil {
				t.Error(err)
			}
		})
		errs = append(errs, transact(t.Context(), conn))
		for i, err := range errs {
			if class := postgres.Classify(err); err == nil || class != postgres.Unknown {
				t.Errorf("%s, error %d of %d: class %v: %v", place, i+1, len(errs), class, err)
			}
		}
	}
}
