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

// checkSession returns a *PoolerError if conn has no session of its own. It takes one round trip
// if there is no pooler: then the server has told its process id at the start of the connection.
// Otherwise it opens another connection. If sessions are shared, a transaction of that one
// has the session that conn had, or the next session of conn is another.
func checkSession(ctx context.Context, conn *pgx.Conn, connect func(context.Context) (*pgx.Conn, error)) error {
	before, err := processOf(ctx, conn)
	if err != nil || before == conn.PgConn().PID() {
		return err
	}
	other, err := connect(ctx)
	if err != nil {
		return err
	}
	defer CloseConn(other)
	if _, err := other.Exec(ctx, "BEGIN"); err != nil {
		return poolerError(err)
	}
	others, err := processOf(ctx, other)
	if err != nil {
		return poolerError(err)
	}
	after, err := processOf(ctx, conn)
	if err == nil && (others == before || after != before) {
		err = new(PoolerError)
	}
	return err
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
