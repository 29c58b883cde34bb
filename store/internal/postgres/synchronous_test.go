package postgres_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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
