package postgres_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/archive"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestReadOnly: a connection that cannot write is not used, and does not outlast the time in
// which the database cannot be written to.
func TestReadOnly(t *testing.T) {
	t.Run("connection_is_closed", testReadOnlyConnection)
	t.Run("server_for_a_while", func(t *testing.T) {
		testReadOnlyForAWhile(t, "ALTER SYSTEM SET default_transaction_read_only = on", "ALTER SYSTEM RESET default_transaction_read_only")
	})
	t.Run("new_sessions_for_a_while", func(t *testing.T) {
		testReadOnlyForAWhile(t, "ALTER DATABASE postgres SET default_transaction_read_only = on",
			"ALTER DATABASE postgres RESET default_transaction_read_only")
	})
	t.Run("standby", testStandby)
}

// testReadOnlyConnection: whatever statement finds that a connection of the pool is
// read-only, the pool drops the connection.
func testReadOnlyConnection(t *testing.T) {
	d := testservers.Postgres(t)
	pool, err := postgres.Open(t.Context(), postgres.Settings{Addresses: []string{d.Address()}, Database: d.Name, User: d.User,
		Password: d.Password, SSLMode: "disable", MaxConnections: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	exec := func(sql string) error {
		_, err := pool.Exec(t.Context(), sql)
		return err
	}
	if err := exec("CREATE TABLE numbers (n int); CREATE SEQUENCE ids"); err != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func() error{
		"exec":     func() error { return exec("TRUNCATE numbers") },
		"prepared": func() error { _, err := pool.Exec(t.Context(), "INSERT INTO numbers VALUES ($1)", 1); return err },
		"query": func() error {
			rows, _ := pool.Query(t.Context(), "SELECT nextval('ids') FROM generate_series(1, $1)", 3)
			_, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		},
		"batch": func() error {
			batch := new(pgx.Batch)
			batch.Queue("SELECT 1")
			batch.Queue("INSERT INTO numbers VALUES ($1)", 1)
			return pool.SendBatch(t.Context(), batch).Close()
		},
		"transaction": func() error {
			return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), "DELETE FROM numbers")
				return err
			})
		},
		"transact": func() error {
			return pool.Transact(t.Context(), func(ctx context.Context, conn *pgx.Conn) error {
				batch := new(pgx.Batch)
				batch.Queue("begin")
				batch.Queue("SELECT FROM numbers FOR UPDATE")
				batch.Queue("commit")
				return conn.SendBatch(ctx, batch).Close()
			})
		},
	} {
		if err := exec("SET default_transaction_read_only = on"); err != nil {
			t.Fatal(err)
		}
		if err := write(); err == nil || postgres.Classify(err) != postgres.Unknown {
			t.Errorf("%s on a read-only connection: %v", name, err)
		}
		if err := write(); err != nil {
			t.Errorf("%s after that: %v", name, err)
		}
	}
}

// startOnOwn returns a harness on a server of its own.
func startOnOwn(t *testing.T, server *localserver.Postgres) *storetest.Harness {
	t.Helper()
	h := &storetest.Harness{T: t, DB: storetest.Connect(t, server.URL("postgres")), Options: optionsOf(t, server)}
	storetest.Migrate(t, h.DB)
	h.Store = h.OpenStore()
	h.Agree(4)
	h.Lease = h.ClaimPartition(0, 0)
	return h
}

func optionsOf(t *testing.T, server *localserver.Postgres) store.Options {
	return storetest.Options(t, &testservers.Database{Host: server.Host, Port: server.Port, User: server.User, Password: server.Password, Name: "postgres"})
}

// testReadOnlyForAWhile: under load, nothing is lost and everything goes on soon after the
// server accepts writes again.
func testReadOnlyForAWhile(t *testing.T, begin, end string) {
	h := startOnOwn(t, testservers.OwnPostgres(t, localserver.PostgresOptions{}))
	var ids []int64
	for i := range 8 {
		ids = append(ids, h.CreateUser(i))
	}
	if err := h.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	load := startLoad(h, ids)
	load.progress(t)

	h.Exec(begin)
	h.Exec("SELECT pg_reload_conf()")
	// Connections that are lost now are replaced while the database is read-only.
	h.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'glotpod.ident/' || $1`, h.Options.Name)
	for begun := time.Now(); time.Since(begun) < 3*time.Second; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := h.Ping(ctx); err == nil {
			t.Error("a read-only database answered the ping")
		}
		cancel()
	}
	h.Exec(end)
	h.Exec("SELECT pg_reload_conf()")

	for ended := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		err := h.Ping(t.Context())
		if err == nil {
			break
		}
		if time.Since(ended) > 15*time.Second {
			t.Fatalf("not ready 15 s after the database accepts writes again: %v", err)
		}
	}
	load.progress(t)
	if written, recorded := load.stop()+int64(len(ids)), h.Value("SELECT count(*) FROM ident_log"); recorded != written {
		t.Errorf("%v changes are on record, want %d", recorded, written)
	}
}

// A load writes to users and reads them all the time.
type load struct {
	writes, reads, ids atomic.Int64
	cancel             context.CancelFunc
	running            sync.WaitGroup
}

func startLoad(h *storetest.Harness, users []int64) *load {
	ctx, cancel := context.WithCancel(h.T.Context())
	l := &load{cancel: cancel}
	repeat := func(count *atomic.Int64, what string, do func(n int) error) {
		l.running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := do(n); err != nil {
					h.T.Errorf("%s: %v", what, err)
					return
				}
				count.Add(1)
			}
		})
	}
	for _, id := range users {
		repeat(&l.writes, "write", func(n int) error { return h.RenameUser(h.Store, h.Lease, id, fmt.Sprint("name ", n)) })
		repeat(&l.reads, "read", func(int) error {
			_, err := h.Find(h.T.Context(), &actor.Lookup{UserID: &id})
			return err
		})
	}
	repeat(&l.ids, "new id", func(int) error {
		_, err := storetest.DrawUserID(h.T.Context(), h.Store)
		return err
	})
	h.T.Cleanup(func() { l.stop() })
	return l
}

// progress waits until more is written, read and drawn, for 5 s at most.
func (l *load) progress(t *testing.T) {
	t.Helper()
	for name, count := range map[string]*atomic.Int64{"writes": &l.writes, "reads": &l.reads, "new ids": &l.ids} {
		enough := count.Load() + 50
		within(t, 5*time.Second, "progress of "+name, func() bool { return count.Load() >= enough })
	}
}

// stop ends the load and returns the number of writes.
func (l *load) stop() int64 {
	l.cancel()
	l.running.Wait()
	return l.writes.Load()
}

// testStandby: nothing comes from a streaming standby, and what is connected to it turns to
// the primary as soon as new connections lead there.
func testStandby(t *testing.T) {
	primary := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	standby := testservers.OwnPostgres(t, localserver.PostgresOptions{StandbyOf: primary})
	h := startOnOwn(t, primary)
	id := h.CreateUser(1)
	replica := storetest.Connect(t, standby.URL("postgres"))
	within(t, 20*time.Second, "the user is replicated", func() (found bool) {
		err := replica.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM users WHERE id = $1)", id).Scan(&found)
		return err == nil && found
	})

	opts := optionsOf(t, standby)
	if s, err := store.Open(t.Context(), opts); err == nil || !store.IsUnreachable(err) {
		t.Errorf("opening a standby: %v", err)
		if err == nil {
			s.Close()
		}
	}
	e, err := store.OpenExporter(t.Context(), opts, archive.Omit) // which only reads
	if err != nil {
		t.Fatalf("exporting from a standby: %v", err)
	}
	if users, err := e.Page(t.Context(), 0); err != nil || len(users) != 1 || users[0].ID != id {
		t.Errorf("exported from a standby: %+v, %v", users, err)
	}
	if last, err := e.LastID(t.Context()); err != nil || last != id {
		t.Errorf("the last id of a standby is %d, %v", last, err)
	}
	e.Close()

	s, p := h.OpenThroughProxy()
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	address := func(server *localserver.Postgres) string {
		return net.JoinHostPort(server.Host, strconv.Itoa(server.Port))
	}
	p.SetServer(address(standby))
	p.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if u, err := s.Find(ctx, &actor.Lookup{UserID: &id}); err == nil {
		t.Errorf("a standby was read: %+v", u)
	}
	for range 2 {
		if err := s.Ping(t.Context()); err == nil {
			t.Error("a standby answered the ping")
		}
	}
	p.SetServer(address(primary))
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("the first ping of the primary: %v", err)
	}
	if err := h.RenameUser(s, h.Lease, id, "Grace"); err != nil {
		t.Error(err)
	}
	if u, err := s.Find(t.Context(), &actor.Lookup{UserID: &id}); err != nil || u.Name != "Grace" {
		t.Errorf("%+v, %v", u, err)
	}
}

// within waits until a condition holds.
func within(t *testing.T, atMost time.Duration, what string, holds func() bool) {
	t.Helper()
	for begun := time.Now(); !holds(); {
		if time.Since(begun) > atMost {
			t.Fatalf("not within %v: %s", atMost, what)
		}
		if wait.For(t.Context(), 10*time.Millisecond) != nil {
			t.FailNow()
		}
	}
}
