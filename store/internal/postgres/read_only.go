package postgres

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// refuseReadOnly makes sure that connections are used only while they accept writes. It also has
// histories read what the server has.
// Otherwise a connection to a standby would read old data, and a connection that was made
// while the database was read-only could stay read-only until it is closed.
//
// A new connection is asked once, which takes a round trip, and refused if it is read-only.
// The parameters that the server reports unasked are no substitute: a connection pooler may
// report those of an earlier connection. An open connection is closed when a statement
// fails because it is read-only.
//
// The check is AfterConnect and not ValidateConnect: if that fails, pgx makes the next
// attempt that sslmode allows, and with "prefer" that one is not encrypted.
func refuseReadOnly(config *pgx.ConnConfig, h *histories) {
	before := config.AfterConnect
	config.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if err := before(ctx, conn); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, connectTimeout) // which bounds only what comes before AfterConnect
		defer cancel()
		if err := h.read(ctx, conn); err != nil {
			return &unwritableError{err}
		}
		return nil
	}
	keep := config.OnPgError
	config.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		return err.Code != readOnlyCode && keep(conn, err)
	}
}

// An unwritableError is the error of a new connection that was not found to accept writes.
type unwritableError struct{ err error }

func (e *unwritableError) Error() string { return e.err.Error() }

func (e *unwritableError) Unwrap() error { return e.err }

// noteReadOnly sets found when a statement fails because its connection is read-only.
func noteReadOnly(config *pgx.ConnConfig, found *atomic.Bool) {
	keep := config.OnPgError
	config.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		if err.Code == readOnlyCode {
			found.Store(true)
		}
		return keep(conn, err)
	}
}
