package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/postgres"
)

// auditRows is what is added to ident_audit, column by column.
type auditRows struct {
	users      []int64
	operations []string
	requests   uuids // NULL: it has no identity
	traces     []string
	changes    []string
}

// add notes what a write changes. What changes nothing leaves no row.
func (a *auditRows) add(w *actor.Write, before, next *actor.User) {
	changes := actor.Changes(before, next)
	if changes == nil {
		return
	}
	a.users = append(a.users, w.UserID)
	a.operations = append(a.operations, w.Operation)
	a.requests = append(a.requests, uuidOf(w.RequestID))
	a.traces = append(a.traces, w.TraceParent)
	a.changes = append(a.changes, string(changes))
}

// queue has the rows written, if a condition holds.
func (a *auditRows) queue(batch *pgx.Batch, condition string) {
	if a.users == nil {
		return
	}
	batch.Queue(`INSERT INTO ident_audit (user_id, operation, request, traceparent, changes)
		SELECT r.user_id, r.operation, r.request, nullif(r.trace, ''), r.changes::json
		FROM unnest($1::int[], $2::text[], $3::uuid[], $4::text[], $5::text[])
			AS r (user_id, operation, request, trace, changes) WHERE `+condition,
		a.users, a.operations, a.requests, a.traces, a.changes)
}

const (
	// auditAhead is how many days have their partition before they come. If nobody
	// gets to it in that time, ident_audit_rest takes what is written.
	auditAhead = 7

	// auditLock is the key of the advisory lock that lets one instance at a time
	// tend ident_audit: "audit" in ASCII.
	auditLock = 0x6175646974

	// auditIndexTimeout bounds how long the index over a day may take to be built.
	auditIndexTimeout = time.Hour

	// auditDayTimeout bounds how long the partition of a day may take to be made,
	// during which ident_audit_rest is locked, and looked through.
	auditDayTimeout = time.Second

	// auditRestRows is how many rows are deleted from ident_audit_rest at a time.
	auditRestRows = 100_000
)

// tendAudit sees to it that ident_audit has the days that come, and not those that
// are over for longer than it is to be kept, unless another instance is at it. What
// fails keeps nothing else from being done.
func (s *Store) tendAudit(ctx context.Context) (err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("reaching the database: %w", err)
	}
	defer conn.Release()
	defer func() { err = errors.Join(err, s.countAuditDays(ctx, conn.Conn())) }()
	unlock, err := postgres.TryLock(ctx, conn.Conn(), auditLock, s.log)
	if err != nil {
		return fmt.Errorf("locking the audit table: %w", err)
	}
	if unlock == nil {
		return nil
	}
	defer unlock()
	due, err := s.auditDue(ctx, conn.Conn())
	if err != nil {
		return fmt.Errorf("reading the days of the audit table: %w", err)
	}
	var failed []error
	var stuck auditDutyKind // of which one has held others up in vain, as the next would
	for _, d := range due {
		if d.kind == stuck || d.kind == auditIndex && s.pool.Config().MaxConns < 4 { // the connection would be missed
			continue
		}
		err := d.do(ctx, conn.Conn())
		if err == nil {
			continue
		}
		failed = append(failed, fmt.Errorf("audit table: %s: %w", d.sql, err))
		switch class := postgres.Classify(err); {
		case class == postgres.Contended, postgres.IsTimedOut(err):
			stuck = d.kind
		case class == postgres.Unknown:
			return errors.Join(failed...)
		}
	}
	return errors.Join(failed...)
}

// auditCount is how the days of the audit table are.
type auditCount struct {
	ahead   int // that come and have their partition
	overdue int // that are over for longer than they are to be kept
}

// countAuditDays counts the days of the audit table.
func (s *Store) countAuditDays(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, postgres.AttemptTimeout)
	defer cancel()
	c := new(auditCount)
	err := conn.QueryRow(ctx, "WITH "+auditDays+`
		SELECT count(*) FILTER (WHERE day > today AND day <= today + $2::int), count(*) FILTER (WHERE old) FROM days, today`,
		s.auditKeep, auditAhead).Scan(&c.ahead, &c.overdue)
	if err != nil {
		return fmt.Errorf("counting the days of the audit table: %w", err)
	}
	s.audit.Store(c)
	return nil
}

// auditDays are the days that have a partition; those are old that are over for
// longer than $1.
const auditDays = `today AS (SELECT (now() AT TIME ZONE 'UTC')::date AS today),
		dated AS (
			SELECT c.oid, c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
			FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
			WHERE i.inhparent = 'ident_audit'::regclass AND c.relname ~ '^ident_audit_[0-9]{8}$'),
		days AS (SELECT *, (day + 1)::timestamp AT TIME ZONE 'UTC' <= now() - $1::interval AS old FROM dated)`

// An auditDuty is a statement that is due.
type auditDuty struct {
	kind auditDutyKind
	sql  string
}

type auditDutyKind string

const (
	auditRest  auditDutyKind = "rest"  // ident_audit_rest is to lose old rows
	auditDay   auditDutyKind = "day"   // one that comes needs its partition
	auditDrop  auditDutyKind = "drop"  // one that is over for long goes
	auditIndex auditDutyKind = "index" // one that is over gets an index, which may take its time
)

// do carries it out, or leaves it to the next time where it would have to wait, and
// would hold up others.
func (d auditDuty) do(ctx context.Context, conn *pgx.Conn) error {
	timeout := postgres.AttemptTimeout
	switch d.kind {
	case auditDay:
		timeout = auditDayTimeout
	case auditIndex:
		timeout = auditIndexTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout+time.Second) // by then the database has given up by itself
	defer cancel()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = '%s'; SET LOCAL statement_timeout = %d; %s",
			slotLockWait, timeout.Milliseconds(), d.sql))
		return err
	})
}

// auditDue reads what is due: the partitions of days that come; those of days that
// are over for long, to be dropped; and an index by user over each day that is over
// and of which nothing will be written any more. An index over today would cost each
// write more than its row does.
func (s *Store) auditDue(ctx context.Context, conn *pgx.Conn) (due []auditDuty, err error) {
	ctx, cancel := context.WithTimeout(ctx, postgres.AttemptTimeout)
	defer cancel()
	rows, _ := conn.Query(ctx, "WITH "+auditDays+`
		SELECT 'rest', format('DELETE FROM ident_audit_rest WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM ident_audit_rest WHERE committed_at < now() - %L::interval ORDER BY committed_at LIMIT %s))', $1::interval, $3::int)
			WHERE EXISTS (SELECT FROM ident_audit_rest WHERE committed_at < now() - $1::interval)
		UNION ALL SELECT 'day', format('SELECT ident_audit_day(%L)', today + n) FROM today, generate_series(1, $2) AS n
			WHERE today + n NOT IN (SELECT day FROM days)
		UNION ALL SELECT 'drop', format('DROP TABLE %I', relname) FROM days WHERE old
		UNION ALL SELECT 'index', format('CREATE INDEX ON %I (user_id)', relname) FROM days
			WHERE (day + 1)::timestamp AT TIME ZONE 'UTC' <= now() - interval '1 hour'
			AND NOT old AND oid NOT IN (SELECT indrelid FROM pg_index)`, s.auditKeep, auditAhead, auditRestRows)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (d auditDuty, err error) {
		err = row.Scan(&d.kind, &d.sql)
		return d, err
	})
}
