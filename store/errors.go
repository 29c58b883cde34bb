package store

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// An errorClass says what may be done after a transaction that failed.
type errorClass int

const (
	// failed: it was not committed and another try would fail as well.
	failed errorClass = iota

	// contended: it was not committed, since another transaction stood in the
	// way, or has changed the tables since a statement was planned, and another
	// try may succeed.
	contended

	// unknown: the database is out of reach, or was lost on the way. The
	// transaction may have been committed.
	unknown
)

func (c errorClass) String() string { return [...]string{"failed", "contended", "unknown"}[c] }

// classify is the only place that tells errors of the database apart.
func classify(err error) errorClass {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		if lost(err) {
			return unknown
		}
		return failed
	}
	switch pg.Code {
	case "23505", // unique_violation: somebody else was faster
		"23503", // foreign_key_violation: likewise
		"40001", // serialization_failure
		"40P01", // deadlock_detected
		"55P03", // lock_not_available
		"26000": // invalid_sql_statement_name: what was planned is gone; pgx plans it anew
		return contended
	case "0A000": // feature_not_supported
		if pg.Routine == resultChanged { // likewise
			return contended
		}
		return failed
	case readOnlyCode, // a standby, for now
		"25P03", // idle_in_transaction_session_timeout: we were away
		"53300": // too_many_connections
		return unknown
	case timedOutCode:
		return failed
	}
	switch class := pg.Code[:2]; {
	case class == "08", class == "57": // connection_exception, operator_intervention
		return unknown
	case pg.SeverityUnlocalized == "FATAL", pg.SeverityUnlocalized == "PANIC":
		return unknown
	}
	return failed
}

// resultChanged is where PostgreSQL finds that what a statement returns is no longer
// of the types that it was planned with: its error has no code of its own.
const resultChanged = "RevalidateCachedQuery"

// readOnlyCode is read_only_sql_transaction.
const readOnlyCode = "25006"

// isReadOnly says that the connection cannot write.
func isReadOnly(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == readOnlyCode
}

// timedOutCode is query_canceled, by statement_timeout.
const timedOutCode = "57014"

// isTimedOut says that a statement took longer than it may.
func isTimedOut(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == timedOutCode
}

// lost says whether err comes of a connection that broke or could not be made.
func lost(err error) bool {
	var network net.Error
	var connect *pgconn.ConnectError
	return errors.As(err, &network) && !isErrno(network) || errors.As(err, &connect) || pgconn.SafeToRetry(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// isErrno says that err is the bare answer of a system call, as a file gives it: it
// looks like an error of the network, but those come as a *net.OpError around it.
func isErrno(err error) bool {
	_, bare := err.(syscall.Errno)
	return bare
}

// Unreachable says that an error came of a database that is out of reach, or was
// lost on the way.
func Unreachable(err error) bool { return classify(err) == unknown }
