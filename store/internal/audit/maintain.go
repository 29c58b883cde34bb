package audit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/store/internal/postgres"
)

const (
	// daysAhead is how many days have their partition in advance. If no instance maintains
	// the table for that long, ident_audit_rest takes the rows.
	daysAhead = 7

	// lockKey is the key of the advisory lock that lets one instance at a time maintain
	// ident_audit: "audit" in ASCII.
	lockKey = 0x6175646974

	// lockWait bounds how long a task may wait for a table lock, and so delay commits.
	lockWait = "200ms"

	// indexTimeout bounds the creation of the index on a day.
	indexTimeout = time.Hour

	// dayTimeout bounds the creation of the partition of a day. It locks and reads
	// ident_audit_rest.
	dayTimeout = time.Second

	// restRows is how many rows are deleted from ident_audit_rest at a time.
	restRows = 100_000
)

// A Maintainer creates, indexes and drops the days of ident_audit.
type Maintainer struct {
	pool *postgres.Pool
	keep time.Duration // how long rows must be kept at least
	log  *zap.Logger
	days atomic.Pointer[Days] // nil: not counted yet
}

// NewMaintainer returns a maintainer that keeps rows for keep at least.
func NewMaintainer(pool *postgres.Pool, keep time.Duration, log *zap.Logger) *Maintainer {
	return &Maintainer{pool: pool, keep: keep, log: log}
}

// Days counts days of the audit table.
type Days struct {
	Ahead   int // future days that have their partition
	Overdue int // days that are still there though they need not be kept
}

// Days returns what the last Maintain has counted, nil before.
func (m *Maintainer) Days() *Days { return m.days.Load() }

// Maintain carries out the tasks that are due, unless another instance is doing so. A task
// that fails does not prevent the others. Maintain also counts the days.
func (m *Maintainer) Maintain(ctx context.Context) (err error) {
	conn, err := m.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	defer func() { err = errors.Join(err, m.countDays(ctx, conn.Conn())) }()
	unlock, err := postgres.TryLock(ctx, conn.Conn(), lockKey, m.log)
	if err != nil {
		return fmt.Errorf("locking the audit table: %w", err)
	}
	if unlock == nil {
		return nil
	}
	defer unlock()
	due, err := m.dueTasks(ctx, conn.Conn())
	if err != nil {
		return fmt.Errorf("reading the days of the audit table: %w", err)
	}
	return m.runTasks(ctx, conn.Conn(), due)
}

func (m *Maintainer) runTasks(ctx context.Context, conn *pgx.Conn, due []task) error {
	var failed []error
	var blocked taskKind // a task of this kind has delayed commits in vain; the next one would too
	for _, t := range due {
		if t.kind == blocked || t.kind == indexDay && m.pool.Config().MaxConns < 4 { // requests would miss the connection
			continue
		}
		err := t.run(ctx, conn)
		if err == nil {
			continue
		}
		failed = append(failed, fmt.Errorf("audit table: %s: %w", t.sql, err))
		switch class := postgres.Classify(err); {
		case class == postgres.Contended, postgres.IsTimedOut(err):
			blocked = t.kind
		case postgres.IsUnreachable(err):
			return errors.Join(failed...)
		}
	}
	return errors.Join(failed...)
}

func (m *Maintainer) countDays(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, postgres.AttemptTimeout)
	defer cancel()
	d := new(Days)
	err := conn.QueryRow(ctx, "WITH "+days+`
		SELECT count(*) FILTER (WHERE day > today AND day <= today + $2::int), count(*) FILTER (WHERE old) FROM days, today`,
		m.keep, daysAhead).Scan(&d.Ahead, &d.Overdue)
	if err != nil {
		return fmt.Errorf("counting the days of the audit table: %w", err)
	}
	m.days.Store(d)
	return nil
}

// days selects the days that have a partition. A day is old if it ended more than $1 ago.
const days = `today AS (SELECT (now() AT TIME ZONE 'UTC')::date AS today),
		dated AS (
			SELECT c.oid, c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
			FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
			WHERE i.inhparent = 'ident_audit'::regclass AND c.relname ~ '^ident_audit_[0-9]{8}$'),
		days AS (SELECT *, (day + 1)::timestamp AT TIME ZONE 'UTC' <= now() - $1::interval AS old FROM dated)`

// A task is a statement that is due.
type task struct {
	kind taskKind
	sql  string
}

type taskKind string

const (
	deleteRest taskKind = "rest"  // delete old rows of ident_audit_rest
	createDay  taskKind = "day"   // create the partition of a future day
	dropDay    taskKind = "drop"  // drop the partition of an old day
	indexDay   taskKind = "index" // index a day that is over, which may take long
)

// run carries out the task. It gives up if it would have to wait long for a lock, which
// would delay commits.
func (t task) run(ctx context.Context, conn *pgx.Conn) error {
	timeout := postgres.AttemptTimeout
	switch t.kind {
	case createDay:
		timeout = dayTimeout
	case indexDay:
		timeout = indexTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout+time.Second) // the database gives up first
	defer cancel()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = '%s'; SET LOCAL statement_timeout = %d; %s",
			lockWait, timeout.Milliseconds(), t.sql))
		return err
	})
}

// dueTasks returns the tasks that are due: create the partitions of future days, drop
// those of old days, and index by user each day that is over and that nothing writes to any
// more. An index on today would cost each write more than the row does.
func (m *Maintainer) dueTasks(ctx context.Context, conn *pgx.Conn) (due []task, err error) {
	ctx, cancel := context.WithTimeout(ctx, postgres.AttemptTimeout)
	defer cancel()
	rows, _ := conn.Query(ctx, "WITH "+days+`
		SELECT 'rest', format('DELETE FROM ident_audit_rest WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM ident_audit_rest WHERE committed_at < now() - %L::interval ORDER BY committed_at LIMIT %s))', $1::interval, $3::int)
			WHERE EXISTS (SELECT FROM ident_audit_rest WHERE committed_at < now() - $1::interval)
		UNION ALL SELECT 'day', format('SELECT ident_audit_day(%L)', today + n) FROM today, generate_series(1, $2) AS n
			WHERE today + n NOT IN (SELECT day FROM days)
		UNION ALL SELECT 'drop', format('DROP TABLE %I', relname) FROM days WHERE old
		UNION ALL SELECT 'index', format('CREATE INDEX ON %I (user_id)', relname) FROM days
			WHERE (day + 1)::timestamp AT TIME ZONE 'UTC' <= now() - interval '1 hour'
			AND NOT old AND oid NOT IN (SELECT indrelid FROM pg_index)`, m.keep, daysAhead, restRows)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t task, err error) {
		err = row.Scan(&t.kind, &t.sql)
		return t, err
	})
}
