package postgres

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// A Class says what may be done after a transaction that failed.
type Class int

const (
	// Failed: the transaction was not committed, and another attempt would fail too.
	Failed Class = iota

	// Contended: the transaction was not committed, because another transaction was in
	// the way or has changed the tables since a statement was planned. Another attempt
	// may succeed.
	Contended

	// Unknown: the connection was lost on the way, or the database did not answer. The
	// transaction may have been committed, and if so, the synchronous standbys may lack it.
	Unknown

	// Unsent: there was no connection for the transaction, because the database is
	// unreachable or all connections were in use. Nothing was sent, so the transaction
	// was not committed. Another attempt may succeed.
	Unsent
)

func (c Class) String() string { return [...]string{"failed", "contended", "unknown", "unsent"}[c] }

// IsUnreachable reports whether an error means that the database could not be reached, or
// that the connection was lost.
func IsUnreachable(err error) bool {
	class := Classify(err)
	return class == Unknown || class == Unsent
}

// An unsentError is the error of a wait for a connection.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return "reaching the database: " + e.err.Error() }

func (e *unsentError) Unwrap() error { return e.err }

// A lostError is the error of a transaction whose connection is closed, whatever the cause:
// pgx closes a connection also when it does not understand a reply.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }

func (e *lostError) Unwrap() error { return e.err }

// Classify returns the class of an error of the database. It is the only place that
// tells these errors apart.
func Classify(err error) Class {
	var unsent *unsentError
	var connect *pgconn.ConnectError
	if errors.As(err, &unsent) || errors.As(err, &connect) {
		return Unsent
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		var lost *lostError
		if errors.As(err, &lost) || isConnectionLost(err) || errors.Is(err, ErrNotReplicated) {
			return Unknown
		}
		return Failed
	}
	if severity := cmp.Or(pg.SeverityUnlocalized, pg.Severity); severity == "FATAL" || severity == "PANIC" {
		return Unknown // the session has ended
	}
	switch pg.Code {
	case "23505", // unique_violation: another transaction was faster
		"23503", // foreign_key_violation: likewise
		"40001", // serialization_failure
		"40P01", // deadlock_detected
		"55P03", // lock_not_available
		"26000": // invalid_sql_statement_name: a prepared statement is gone; pgx prepares it again
		return Contended
	case "0A000": // feature_not_supported
		if pg.Routine == resultChanged { // pgx prepares the statement again
			return Contended
		}
		return Failed
	case readOnlyCode, // the server is a standby, for now; the connection was closed
		"25P03", // idle_in_transaction_session_timeout: this process was frozen or cut off
		"40003", // statement_completion_unknown
		"53300": // too_many_connections
		return Unknown
	case timedOutCode:
		return Failed
	}
	if strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "57") { // connection_exception, operator_intervention
		return Unknown
	}
	return Failed
}

// resultChanged is the routine in which PostgreSQL finds that the result types of a
// prepared statement have changed. This error has no code of its own.
const resultChanged = "RevalidateCachedQuery"

// readOnlyCode is read_only_sql_transaction.
const readOnlyCode = "25006"

// timedOutCode is query_canceled, which statement_timeout causes.
const timedOutCode = "57014"

// IsTimedOut reports whether a statement reached its statement_timeout.
func IsTimedOut(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == timedOutCode
}

// isConnectionLost reports whether a connection broke.
func isConnectionLost(err error) bool {
	var network net.Error
	return errors.As(err, &network) && !isErrno(network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// isErrno reports whether err is the bare result of a system call, as file operations
// return it. It implements net.Error, but errors of the network are a *net.OpError
// around it.
func isErrno(err error) bool {
	//lint:ignore errorlint an Errno within a *net.OpError must not match
	_, bare := err.(syscall.Errno)
	return bare
}
