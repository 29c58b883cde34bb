package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/store/internal/postgres"
)

// TestReserved: a transaction on the reserved connection does not wait for the pool, and
// uses the pool if there is no such connection at the moment.
func TestReserved(t *testing.T) {
	h := startAsRole(t, func(s *postgres.Settings) { s.Reserve = true })
	use := func(run func(ctx context.Context, conn *pgx.Conn) error) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return h.TransactReserved(ctx, run)
	}
	pid := func() (pid uint32) {
		t.Helper()
		err := use(func(ctx context.Context, conn *pgx.Conn) error {
			pid = conn.PgConn().PID()
			return conn.Ping(ctx)
		})
		if err != nil {
			t.Error(err)
		}
		return pid
	}
	end := func(pid uint32) {
		t.Helper()
		if _, err := h.db.Exec(t.Context(), "SELECT pg_terminate_backend($1, 10000)", int(pid)); err != nil {
			t.Fatal(err)
		}
	}
	reserved := pid()

	t.Run("pool_in_use", func(t *testing.T) {
		for _, conn := range h.hold(t, maxOfRole) {
			defer conn.Release()
		}
		if pid() != reserved {
			t.Error("another connection was used")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := h.Transact(ctx, func(context.Context, *pgx.Conn) error { return nil })
		if postgres.Classify(err) != postgres.Unsent {
			t.Errorf("without a connection: class %v: %v", postgres.Classify(err), err)
		}
	})
	t.Run("busy", func(t *testing.T) {
		err := use(func(context.Context, *pgx.Conn) error {
			if pid() == reserved {
				t.Error("two transactions use one connection")
			}
			return nil
		})
		if err != nil || pid() != reserved {
			t.Errorf("the connection is not used again: %v", err)
		}
	})
	t.Run("lost", func(t *testing.T) {
		end(reserved)
		err := use(func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) })
		if err == nil || postgres.Classify(err) != postgres.Unknown {
			t.Errorf("on the lost connection: class %v: %v", postgres.Classify(err), err)
		}
		lost := reserved
		if reserved = pid(); reserved == lost || pid() != reserved {
			t.Error("it was not replaced")
		}
	})
	t.Run("refused", func(t *testing.T) {
		h.exec(t, refusals["no_login"].begin)
		end(reserved)
		use(func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) })
		if other := pid(); other == 0 || other == reserved {
			t.Error("the pool was not used")
		}
		h.exec(t, refusals["no_login"].end)
		lost := reserved
		wantEventually(t, func() error {
			for _, conn := range h.hold(t, maxOfRole) {
				defer conn.Release()
			}
			return use(func(_ context.Context, conn *pgx.Conn) error { reserved = conn.PgConn().PID(); return nil })
		})
		if reserved == lost || pid() != reserved {
			t.Error("it was not opened again")
		}
	})
}
