package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
)

// auditRows is what is added to ident_audit, column by column.
type auditRows struct {
	users      []int64
	operations []string
	requests   []*uuid.UUID // nil: it has no identity
	traces     []string
	changes    []string
}

// add notes what a decision changes. What changes nothing leaves no row.
func (a *auditRows) add(d decided) {
	changes := actor.Changes(d.current, d.decision.Next)
	if changes == nil {
		return
	}
	w := d.pending.write
	var request *uuid.UUID
	if w.Identity != (actor.Identity{}) {
		request = (*uuid.UUID)(&w.Identity)
	}
	a.users = append(a.users, w.UserID)
	a.operations = append(a.operations, w.Operation)
	a.requests = append(a.requests, request)
	a.traces = append(a.traces, w.TraceParent)
	a.changes = append(a.changes, string(changes))
}

// queue has the rows written, if a condition holds.
func (a *auditRows) queue(batch *pgx.Batch, condition string) {
	if len(a.users) == 0 {
		return
	}
	batch.Queue(`INSERT INTO ident_audit (user_id, operation, request, traceparent, changes)
		SELECT r.user_id, r.operation, r.request, nullif(r.trace, ''), r.changes::json
		FROM unnest($1::int[], $2::text[], $3::uuid[], $4::text[], $5::text[])
			AS r (user_id, operation, request, trace, changes) WHERE `+condition,
		a.users, a.operations, a.requests, a.traces, a.changes)
}

const (
	auditCheckEvery = 10 * time.Minute

	// auditAhead is how many days have their partition before they come. If nobody
	// gets to it in that time, ident_audit_rest takes what is written.
	auditAhead = 7

	// auditLock is the key of the advisory lock that lets one instance at a time
	// tend ident_audit: "audit" in ASCII.
	auditLock = 0x6175646974

	// auditIndexTimeout bounds how long the index over a day may take to be built.
	auditIndexTimeout = time.Hour
)

// tendAudits sees to it that ident_audit has the days that come, and not those that
// are over for longer than it is to be kept.
func (s *Store) tendAudits() {
	ticker := time.NewTicker(auditCheckEvery)
	defer ticker.Stop()
	for {
		if err := s.tendAudit(s.ctx); err != nil && s.ctx.Err() == nil {
			s.log.Warn("audit table not tended, trying again", zap.Duration("in", auditCheckEvery), zap.Error(err))
		}
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// tendAudit does what is due, unless another instance is at it.
func (s *Store) tendAudit(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("reaching the database: %w", err)
	}
	defer conn.Release()
	var locked bool
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", auditLock).Scan(&locked); err != nil {
		return fmt.Errorf("locking the audit table: %w", err)
	}
	if !locked {
		return nil
	}
	defer s.unlock(conn.Conn(), auditLock)
	due, err := s.auditDue(ctx, conn.Conn())
	if err != nil {
		return fmt.Errorf("reading the days of the audit table: %w", err)
	}
	for _, d := range due {
		if d.long && s.pool.Config().MaxConns < 4 {
			continue // the connection would be missed
		}
		if err := d.do(ctx, conn.Conn()); err != nil {
			return fmt.Errorf("audit table: %s: %w", d.sql, err)
		}
	}
	return nil
}

// An auditDuty is a statement that is due.
type auditDuty struct {
	sql  string
	long bool // it may take its time
}

// do carries it out, or leaves it to the next time where it would have to wait, and
// would hold up others.
func (d auditDuty) do(ctx context.Context, conn *pgx.Conn) error {
	timeout := attemptTimeout
	if d.long {
		timeout = auditIndexTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
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
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	rows, _ := conn.Query(ctx, `WITH today AS (SELECT (now() AT TIME ZONE 'UTC')::date AS today),
		days AS (
			SELECT c.oid, c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
			FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
			WHERE i.inhparent = 'ident_audit'::regclass AND c.relname ~ '^ident_audit_[0-9]{8}$'),
		old AS (SELECT * FROM days WHERE (day + 1)::timestamp AT TIME ZONE 'UTC' <= now() - $1::interval)
		SELECT format('SELECT ident_audit_day(%L)', today + n), false FROM today, generate_series(1, $2) AS n
			WHERE today + n NOT IN (SELECT day FROM days)
		UNION ALL SELECT format('DROP TABLE %I', relname), false FROM old
		UNION ALL SELECT format('DELETE FROM ident_audit_rest WHERE committed_at < now() - %L::interval', $1::interval), false
			WHERE EXISTS (SELECT FROM ident_audit_rest WHERE committed_at < now() - $1::interval)
		UNION ALL SELECT format('CREATE INDEX ON %I (user_id)', relname), true FROM days
			WHERE (day + 1)::timestamp AT TIME ZONE 'UTC' <= now() - interval '1 hour'
			AND oid NOT IN (SELECT oid FROM old) AND oid NOT IN (SELECT indrelid FROM pg_index)`, s.auditKeep, auditAhead)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (d auditDuty, err error) {
		err = row.Scan(&d.sql, &d.long)
		return d, err
	})
}
