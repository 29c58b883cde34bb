package changelog

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
	// daysAhead is how many days have their table in advance. If no instance creates tables
	// for that long, the first write of a day creates that of the day.
	daysAhead = 7

	// minKeep is how long rows are kept at least: requests may be replayed.
	minKeep = day

	// lockKey is the key of the advisory lock that lets one instance at a time maintain
	// the log: "log" in ASCII.
	lockKey = 0x6c6f67

	// lockWait bounds how long a task may wait for a table lock, and so delay commits.
	lockWait = "200ms"
)

// A Maintainer creates and drops the tables of days.
type Maintainer struct {
	pool   *postgres.Pool
	keep   time.Duration // how long rows must be kept at least
	log    *zap.Logger
	counts atomic.Pointer[Counts] // nil: not counted yet
}

// NewMaintainer returns a maintainer that keeps rows for keep, or for a day if that is longer.
func NewMaintainer(pool *postgres.Pool, keep time.Duration, log *zap.Logger) *Maintainer {
	return &Maintainer{pool: pool, keep: max(keep, minKeep), log: log}
}

// Counts counts days of the log.
type Counts struct {
	Ahead   int // future days that have their table
	Overdue int // days that are still there though they need not be kept
}

// Counts returns what the last Maintain has counted, nil before.
func (m *Maintainer) Counts() *Counts { return m.counts.Load() }

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
		return fmt.Errorf("locking the log: %w", err)
	}
	if unlock == nil {
		return nil
	}
	defer unlock()
	due, err := m.dueTasks(ctx, conn.Conn())
	if err != nil {
		return fmt.Errorf("reading the days of the log: %w", err)
	}
	return m.runTasks(ctx, conn.Conn(), due)
}

func (m *Maintainer) runTasks(ctx context.Context, conn *pgx.Conn, due []task) error {
	var failed []error
	var blocked taskKind // a task of this kind has delayed commits in vain; the next one would too
	for _, t := range due {
		if t.kind == blocked {
			continue
		}
		err := t.run(ctx, conn)
		if err == nil {
			continue
		}
		failed = append(failed, fmt.Errorf("log: %s: %s: %w", t.kind, t.day, err))
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
	d := new(Counts)
	err := conn.QueryRow(ctx, "WITH "+days+`
		SELECT count(*) FILTER (WHERE day > today AND day <= today + $2::int), count(*) FILTER (WHERE old) FROM days, today`,
		m.keep, daysAhead).Scan(&d.Ahead, &d.Overdue)
	if err != nil {
		return fmt.Errorf("counting the days of the log: %w", err)
	}
	m.counts.Store(d)
	return nil
}

// days selects the days that have a table. A day is old if it ended more than $1 ago.
const days = `today AS (SELECT (now() AT TIME ZONE 'UTC')::date AS today),
		dated AS (
			SELECT c.oid, c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
			FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
			WHERE i.inhparent = 'ident_log'::regclass AND c.relname ~ '^ident_log_[0-9]{8}$'),
		days AS (SELECT *, (day + 1)::timestamp AT TIME ZONE 'UTC' <= now() - $1::interval AS old FROM dated)`

// A task is a statement that is due.
type task struct {
	kind taskKind
	day  string
	sql  string
}

// A taskKind is "creating", for the table of a future day, or "dropping", for that of an old day.
type taskKind string

// dropTable drops the table of a day, unless it has a change that was not notified. It notes up
// to which positions changes were dropped.
const dropTable = `DO $$
	BEGIN
		LOCK TABLE %1$I;
		IF EXISTS (SELECT FROM ident_partitions AS p, LATERAL (
				SELECT FROM %1$I AS l WHERE l.partition = p.partition AND l.position > p.notified LIMIT 1) AS later)
			OR EXISTS (SELECT FROM ident_held_back AS h, LATERAL (
				SELECT FROM %1$I AS l WHERE l.user_id = h.user_id AND l.position >= h.position LIMIT 1) AS later) THEN
			RETURN;
		END IF;
		UPDATE ident_partitions AS p SET pruned = last.position FROM (
			SELECT q.partition, l.position FROM ident_partitions AS q, LATERAL (
				SELECT position FROM %1$I WHERE partition = q.partition AND position IS NOT NULL ORDER BY position DESC LIMIT 1) AS l) AS last
			WHERE p.partition = last.partition AND p.pruned < last.position;
		DELETE FROM ident_lost AS l USING ident_partitions AS p WHERE p.partition = l.partition AND l.before <= p.pruned;
		DROP TABLE %1$I;
	END
$$`

// run carries out the task. It gives up if it would have to wait long for a lock, which
// would delay commits.
func (t task) run(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, postgres.AttemptTimeout+time.Second) // the database gives up first
	defer cancel()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = '%s'; SET LOCAL statement_timeout = %d; %s",
			lockWait, postgres.AttemptTimeout.Milliseconds(), t.sql))
		return err
	})
}

// dueTasks returns the tasks that are due: create the tables of future days, and drop those
// of old days.
func (m *Maintainer) dueTasks(ctx context.Context, conn *pgx.Conn) (due []task, err error) {
	ctx, cancel := context.WithTimeout(ctx, postgres.AttemptTimeout)
	defer cancel()
	rows, _ := conn.Query(ctx, "WITH "+days+`
		SELECT 'creating', (today + n)::text, format('SELECT ident_log_day(%L)', today + n) FROM today, generate_series(1, $2) AS n
			WHERE today + n NOT IN (SELECT day FROM days)
		UNION ALL SELECT 'dropping', day::text, format($3, relname) FROM days WHERE old`, m.keep, daysAhead,
		dropTable)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t task, err error) {
		err = row.Scan(&t.kind, &t.day, &t.sql)
		return t, err
	})
}
