package postgres

import (
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A commit waits for the synchronous standbys, if the server has any. If the wait is
// cancelled, the transaction stays committed in the primary alone, where each later
// transaction sees it, and a failover may lose it. pgx cancels what is under way when it
// closes a connection. It could leave the server waiting instead; but then each attempt
// would keep one more connection of the server, and its locks, until the standby is back.

// writeWAL writes a message without content to the write-ahead log, so that the commit of
// its transaction waits for the synchronous standbys. A transaction that only reads, or
// only has an id, does not wait.
const writeWAL = "SELECT pg_logical_emit_message(true, 'glotpod.ident'::text, ''::text)"

// QueueWAL adds a statement to a batch. When the batch's transaction is committed, the
// synchronous standbys have everything that the transaction has read.
func QueueWAL(batch *pgx.Batch) { batch.Queue(writeWAL) }

// ErrNotReplicated means that a transaction is committed in the primary and that its
// synchronous standbys may lack it.
var ErrNotReplicated = errors.New("the wait for a synchronous standby was cancelled")

// waitCancelled is the routine in which PostgreSQL warns that it does not wait for a
// standby any longer. This warning has no code of its own.
const waitCancelled = "SyncRepWaitForLSN"

// notReplicated is a key in the custom data of a connection.
const notReplicated = "not replicated"

// noteNotReplicated notes on a connection that an administrator has cancelled its wait for a
// standby. The server then reports the commit as done.
func noteNotReplicated(config *pgx.ConnConfig) {
	next := config.OnNotice
	config.OnNotice = func(conn *pgconn.PgConn, notice *pgconn.Notice) {
		if notice.Routine == waitCancelled {
			conn.CustomData()[notReplicated] = true
		}
		if next != nil {
			next(conn, notice)
		}
	}
}

// forgetNotReplicated removes what was noted about earlier transactions of a connection: those
// that have failed all the same, and those that nobody has checked.
func forgetNotReplicated(conn *pgx.Conn) { delete(conn.PgConn().CustomData(), notReplicated) }

// checkReplicated returns ErrNotReplicated if a transaction of the connection was committed
// since forgetNotReplicated and was not waited for.
func checkReplicated(conn *pgx.Conn) error {
	if conn.PgConn().CustomData()[notReplicated] != nil {
		return ErrNotReplicated
	}
	return nil
}
