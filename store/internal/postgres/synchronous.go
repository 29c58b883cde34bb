package postgres

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

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

const (
	// longTransaction is the duration from which on it is asked whether a transaction waits for a
	// synchronous standby.
	longTransaction = 3 * time.Second

	// waitShownFor is how long a wait counts after it was last seen. It is longer than the time
	// in which a transaction that is attempted again is not long yet.
	waitShownFor = longTransaction + 4*time.Second
)

// waitsForStandby selects whether a transaction of this process waits for a synchronous standby.
const waitsForStandby = `SELECT EXISTS (SELECT FROM pg_stat_activity
	WHERE wait_event = 'SyncRep' AND datname = current_database() AND application_name = current_setting('application_name'))`

// standbyWaits knows whether transactions wait for a synchronous standby.
type standbyWaits struct {
	mu       sync.Mutex              // guards the following field
	underWay map[*pgx.Conn]time.Time // since when, by connection

	since, seen atomic.Int64 // when a wait was first and last seen, in Unix nanoseconds
}

func (w *standbyWaits) begin(conn *pgx.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.underWay == nil {
		w.underWay = make(map[*pgx.Conn]time.Time)
	}
	w.underWay[conn] = time.Now()
}

func (w *standbyWaits) end(conn *pgx.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.underWay, conn)
}

// anyLong reports whether a transaction takes long.
func (w *standbyWaits) anyLong() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, since := range w.underWay {
		if time.Since(since) >= longTransaction {
			return true
		}
	}
	return false
}

// queue asks whether a transaction waits, if one takes long.
func (w *standbyWaits) queue(batch *pgx.Batch) {
	if !w.anyLong() {
		return
	}
	batch.Queue(waitsForStandby).QueryRow(func(row pgx.Row) error {
		var waits bool
		if err := row.Scan(&waits); err != nil || !waits {
			return err
		}
		w.see(time.Now())
		return nil
	})
}

// see notes that a transaction waits.
func (w *standbyWaits) see(now time.Time) {
	if w.duration(now) == 0 {
		w.since.Store(now.Add(-longTransaction).UnixNano())
	}
	w.seen.Store(now.UnixNano())
}

// duration returns how long transactions have waited, 0 if none does.
func (w *standbyWaits) duration(now time.Time) time.Duration {
	seen := w.seen.Load()
	if seen == 0 || now.Sub(time.Unix(0, seen)) >= waitShownFor {
		return 0
	}
	return now.Sub(time.Unix(0, w.since.Load()))
}
