package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A History is what a server says about the commits that it has.
type History struct {
	// ID names a sequence of commits: the system identifier of the server, the timeline of
	// its write-ahead log, and the ids of the database and of the table ident_cluster. A standby
	// that is promoted begins a timeline, and so does a server that is restored from an archive. A
	// dump is restored into another table. ID is "" if the server does not tell.
	ID string

	// Flushed is how far the write-ahead log is flushed. It never decreases in a history, even
	// over a crash, unless the server's files were replaced by older ones.
	Flushed uint64
}

// timeline returns the timeline of an ID, and the ID without it.
func timeline(id string) (number, rest string) {
	system, after, _ := strings.Cut(id, "/")
	number, table, _ := strings.Cut(after, "/")
	return number, system + "/" + table
}

// readHistory reads whether a session can write, and the history of the server. A standby has no
// current position in the write-ahead log.
const readHistory = `SELECT current_setting('transaction_read_only'),
	CASE WHEN NOT pg_is_in_recovery() THEN concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
		left(pg_walfile_name(pg_current_wal_flush_lsn()), 8),
		(SELECT oid FROM pg_database WHERE datname = current_database()), to_regclass('ident_cluster')::oid) END,
	CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() - '0/0' END`

// readReadOnly is readHistory for a server that does not tell its history.
const readReadOnly = "SELECT current_setting('transaction_read_only'), '', 0"

// A HistoryChange is what a [Guard] is called for.
type HistoryChange struct {
	From, To string // IDs; From is "" for the first connection of a pool
	Behind   bool   // the write-ahead log is shorter than it was
}

// A Guard decides whether connections to a history may be used. Until it has returned nil, no
// connection to this history is used. It has the first of them.
type Guard func(context.Context, *pgx.Conn, HistoryChange) error

const (
	// guardTimeout bounds a call of a Guard.
	guardTimeout = 5 * time.Second

	// guardPause is how long the guard is not called again after it has failed.
	guardPause = 250 * time.Millisecond
)

// histories makes sure that connections to one history are in use at a time.
type histories struct {
	guard  atomic.Pointer[Guard]
	turn   chan struct{}        // has a value during a call of guard
	failed atomic.Pointer[fail] // the latest call that failed

	connections atomic.Uint64 // numbers the connections, in the order in which they read their history
	accepted    atomic.Pointer[acceptedHistory]
	suspected   atomic.Bool
	flushed     atomic.Pointer[flushedWAL]
}

// A fail is a call of the guard that has failed. Connections that waited for it fail too.
type fail struct {
	id    string
	until time.Time
	err   error
}

// An acceptedHistory is what the guard has accepted last.
type acceptedHistory struct {
	id    string
	since uint64 // the number of the connection
}

// flushedWAL is the greatest known History.Flushed of a history.
type flushedWAL struct {
	position uint64
	accepted *acceptedHistory
}

// A connHistory is what a connection has found out.
type connHistory struct {
	History
	number uint64
	least  *flushedWAL // what was known before
}

// historyKey is a key in the custom data of a connection.
const historyKey = "history"

// read asks a new connection for its history. It returns an error if the session cannot write.
func (h *histories) read(ctx context.Context, conn *pgconn.PgConn) error {
	if conn.CustomData()[historyKey] != nil {
		return nil // it was asked while the server was chosen
	}
	c := &connHistory{number: h.connections.Add(1), least: h.flushed.Load()}
	row, err := queryRow(ctx, conn, readHistory)
	if doesNotTell(err) {
		row, err = queryRow(ctx, conn, readReadOnly)
	}
	if err != nil {
		return fmt.Errorf("reading the state of the server: %w", err)
	}
	if row[0] != "off" {
		return errors.New("read only connection")
	}
	c.ID = row[1]
	if c.Flushed, err = strconv.ParseUint(row[2], 10, 64); err != nil {
		return fmt.Errorf("reading the state of the server: %w", err)
	}
	conn.CustomData()[historyKey] = c
	return nil
}

// doesNotTell reports whether err says that the server will not tell its history: functions are
// missing or not permitted.
func doesNotTell(err error) bool {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return false
	}
	switch refused.Code {
	case "42501", "42883", "0A000": // insufficient_privilege, undefined_function, feature_not_supported
		return true
	}
	return false
}

// queryRow returns the one row of a query with three columns, as texts.
func queryRow(ctx context.Context, conn *pgconn.PgConn, sql string) (row [3]string, err error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return row, err
	}
	for i, value := range results[0].Rows[0] {
		row[i] = string(value)
	}
	return row, nil
}

func historyOf(conn *pgx.Conn) *connHistory {
	c, _ := conn.PgConn().CustomData()[historyKey].(*connHistory)
	return c
}

var (
	errOldConnection = errors.New("the connection is to an earlier state of the database")
	errOldTimeline   = errors.New("the server has an earlier timeline than the one that was in use: " +
		"it was the primary before, or its files are an old copy; to use such a copy, stop all instances first, and mark it as restored")
)

// check returns nil if a connection may be used.
func (h *histories) check(ctx context.Context, conn *pgx.Conn) error {
	guard, c := h.guard.Load(), historyOf(conn)
	if guard == nil || c == nil || c.ID == "" || h.isAccepted(c) {
		return nil
	}
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if h.isAccepted(c) {
		return nil
	}
	if f := h.failed.Load(); f != nil && f.id == c.ID && time.Now().Before(f.until) {
		return &unwritableError{f.err}
	}
	change := HistoryChange{To: c.ID, Behind: h.isBehind(c)}
	if a := h.accepted.Load(); a != nil {
		if change.From = a.id; a.id != c.ID {
			if c.number < a.since {
				return errOldConnection
			}
			if h.hasOldTimeline(c) {
				return &unwritableError{errOldTimeline}
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guardTimeout)
	defer cancel()
	h.suspected.Store(false)
	if err := (*guard)(ctx, conn, change); err != nil {
		h.suspected.Store(true)
		h.failed.Store(&fail{c.ID, time.Now().Add(guardPause), err})
		return &unwritableError{err}
	}
	a := &acceptedHistory{c.ID, c.number}
	h.accepted.Store(a)
	h.flushed.Store(&flushedWAL{c.Flushed, a})
	return nil
}

// hasOldTimeline reports whether a server has an earlier timeline than the accepted history.
func (h *histories) hasOldTimeline(c *connHistory) bool {
	a := h.accepted.Load()
	if a == nil || c == nil || c.ID == "" {
		return false
	}
	is, system := timeline(c.ID)
	was, of := timeline(a.id)
	return system == of && is < was
}

// avoidOldTimelines makes attempts that have a choice of servers go on to the next one when a
// server has an earlier timeline.
func (h *histories) avoidOldTimelines(config *pgxpool.Config) {
	before := config.BeforeConnect
	config.BeforeConnect = func(ctx context.Context, config *pgx.ConnConfig) error {
		err := before(ctx, config)
		if validate := config.ValidateConnect; validate != nil {
			config.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
				if err := validate(ctx, conn); err != nil {
					return err
				}
				if err := h.read(ctx, conn); err != nil {
					return err
				}
				if c, _ := conn.CustomData()[historyKey].(*connHistory); h.hasOldTimeline(c) {
					return errOldTimeline
				}
				return nil
			}
		}
		return err
	}
}

// isAccepted reports whether a connection may be used as it is.
func (h *histories) isAccepted(c *connHistory) bool {
	a := h.accepted.Load()
	return a != nil && a.id == c.ID && !h.suspected.Load() && !h.isBehind(c)
}

// isBehind reports whether the server had less of the write-ahead log than was known before the
// connection asked, since the guard was called last.
func (h *histories) isBehind(c *connHistory) bool {
	return c.least != nil && c.Flushed < c.least.position && c.least.accepted == h.accepted.Load() && c.least.accepted.id == c.ID
}

// isOld reports whether a connection is to an earlier history.
func (h *histories) isOld(conn *pgx.Conn) bool {
	a, c := h.accepted.Load(), historyOf(conn)
	return a != nil && c != nil && c.ID != "" && c.ID != a.id && c.number < a.since
}

// noteFlushed notes how far the write-ahead log of the accepted history is flushed.
func (h *histories) noteFlushed(conn *pgx.Conn, position uint64) {
	f, a, c := h.flushed.Load(), h.accepted.Load(), historyOf(conn)
	if f != nil && f.accepted == a && c != nil && c.ID == a.id && position > f.position {
		h.flushed.CompareAndSwap(f, &flushedWAL{position, a})
	}
}
