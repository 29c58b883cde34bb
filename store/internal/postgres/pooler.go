package postgres

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A PoolerError means that a connection has no session of its own: a connection pooler gives
// its transactions or statements to several ones. The limits that are set for a session, the
// notifications that it listens for, and its prepared statements would be lost.
type PoolerError struct{}

func (*PoolerError) Error() string {
	return "a connection pooler between this program and the database does not keep sessions; " +
		"PgBouncer needs pool_mode = session for this database and user"
}

// refusedByPooler is protocol_violation, with which PgBouncer refuses a transaction of several
// statements in its mode "statement".
const refusedByPooler = "08P01"

// CheckSessions returns a *PoolerError if connections have no sessions of their own.
func (p *Pool) CheckSessions(ctx context.Context) error {
	conn, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return checkSession(ctx, conn.Conn(), p.Connect)
}

// sharingChecks is how often a pooler is asked whether it shares sessions. Another connection may
// have the session of the one that is examined at the moment when it is asked.
const sharingChecks = 5

// checkSession returns a *PoolerError if conn has no session of its own. It takes one round trip
// if there is no pooler: then the server has told its process id at the start of the connection.
// Otherwise it opens another connection.
func checkSession(ctx context.Context, conn *pgx.Conn, connect func(context.Context) (*pgx.Conn, error)) error {
	process, err := processOf(ctx, conn)
	if err != nil || process == conn.PgConn().PID() {
		return err
	}
	other, err := connect(ctx)
	if err != nil {
		return err
	}
	defer CloseConn(other)
	for range sharingChecks {
		shared, err := isShared(ctx, conn, other, process)
		if err != nil {
			return poolerError(err)
		}
		if shared {
			return new(PoolerError)
		}
	}
	return nil
}

// isShared reports whether conn has not always the session of process, or a transaction of another
// connection has that session. A pooler gives a transaction the session that was used last, or
// the one that was not used for longest.
func isShared(ctx context.Context, conn, other *pgx.Conn, process uint32) (bool, error) {
	before, err := processOf(ctx, conn)
	if err != nil {
		return false, err
	}
	if _, err := other.Exec(ctx, "BEGIN"); err != nil {
		return false, err
	}
	others, err := processOf(ctx, other)
	if err != nil {
		return false, err
	}
	during, err := processOf(ctx, conn)
	if err != nil {
		return false, err
	}
	_, err = other.Exec(ctx, "ROLLBACK")
	return before != process || others == process || during != process, err
}

func poolerError(err error) error {
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == refusedByPooler {
		return new(PoolerError)
	}
	return err
}

// processOf returns the id of the server's process that a statement of the connection reaches.
func processOf(ctx context.Context, conn *pgx.Conn) (pid uint32, err error) {
	results, err := conn.PgConn().Exec(ctx, "SELECT pg_backend_pid()").ReadAll() // nothing is prepared, and any encoding will do
	if err != nil {
		return 0, err
	}
	number, err := strconv.ParseUint(string(results[0].Rows[0][0]), 10, 32)
	return uint32(number), err
}
