package postgres_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/postgres"
)

// TestNotReplicated: a cancelled wait for a standby concerns the transaction that waited, and
// no later one on the connection.
func TestNotReplicated(t *testing.T) {
	d := testservers.Postgres(t)
	pool, err := postgres.Open(t.Context(), postgres.Settings{Addresses: []string{d.Address()}, Database: d.Name, User: d.User,
		Password: d.Password, SSLMode: "disable", MaxConnections: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	cancelled := func(conn *pgx.Conn) { // as the server says it
		conn.Config().OnNotice(conn.PgConn(), &pgconn.Notice{Routine: "SyncRepWaitForLSN"})
	}
	transact := func(waits bool, err error) error {
		return pool.Transact(t.Context(), func(_ context.Context, conn *pgx.Conn) error {
			if waits {
				cancelled(conn)
			}
			return err
		})
	}
	failure := errors.New("failure")
	for _, c := range []struct {
		name   string
		before func()
	}{
		{"committed", func() {
			if err := transact(true, nil); !errors.Is(err, postgres.ErrNotReplicated) {
				t.Errorf("committed in the primary alone: %v", err)
			}
		}},
		{"failed", func() {
			if err := transact(true, failure); !errors.Is(err, failure) {
				t.Errorf("failed: %v", err)
			}
		}},
		{"not_checked", func() {
			conn, err := pool.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
			cancelled(conn.Conn())
		}},
	} {
		c.before()
		if err := transact(false, nil); err != nil {
			t.Errorf("after a transaction that was %s: %v", c.name, err)
		}
	}
}

// TestStandbyWait: a commit that waits for a synchronous standby is shown after a few seconds, and
// no longer when the standby is back.
func TestStandbyWait(t *testing.T) {
	h := startOnOwn(t, testservers.OwnPostgres(t, localserver.PostgresOptions{}))
	id := h.CreateUser(1)
	ping := func() bool {
		t.Helper()
		if err := h.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		return len(h.Problems()) > 0
	}
	h.Exec("ALTER SYSTEM SET synchronous_standby_names = 'away'")
	h.Exec("SELECT pg_reload_conf()")
	begun := time.Now()
	var shown atomic.Bool
	var writing sync.WaitGroup
	writing.Go(func() {
		for !shown.Load() { // the server does not wait until it has read the new setting
			if err := h.RenameUser(h.Store, h.Lease, id, "waits"); err != nil {
				t.Error(err)
				return
			}
		}
	})
	within(t, 30*time.Second, "the wait is shown", ping)
	shown.Store(true)
	if took := time.Since(begun); took < 3*time.Second {
		t.Errorf("it was shown after %v", took)
	}
	if all := h.Problems(); !strings.HasPrefix(all[0], "commits have been waiting for a synchronous standby for ") {
		t.Errorf("%q", all)
	}
	h.Exec("ALTER SYSTEM RESET synchronous_standby_names")
	h.Exec("SELECT pg_reload_conf()")
	writing.Wait()
	within(t, 30*time.Second, "the wait is shown no longer", func() bool { return !ping() })
}

// TestStandbyWaits: a wait is shown as long as one was seen not long ago.
func TestStandbyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w postgres.StandbyWaits
		begun := time.Now()
		w.See(begun)
		time.Sleep(6 * time.Second)
		w.See(time.Now())
		time.Sleep(6 * time.Second)
		if d := w.Duration(time.Now()); d < 12*time.Second || d > 20*time.Second {
			t.Errorf("waited for %v", d)
		}
		time.Sleep(time.Second)
		if d := w.Duration(time.Now()); d != 0 {
			t.Errorf("waited for %v after the end", d)
		}
	})
}
