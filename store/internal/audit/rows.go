package audit

import (
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/glotpod/ident/actor"
)

// Rows are new rows of ident_audit, column by column. The zero Rows are none.
type Rows struct {
	users      []int64
	operations []string
	requests   pgtype.FlatArray[pgtype.UUID] // NULL: the request has no id
	traces     []string
	changes    []string
}

// Add adds a row for what a write changes. A write that changes nothing has no row.
func (r *Rows) Add(w *actor.Write, before, next *actor.User) {
	changes := actor.Changes(before, next)
	if changes == nil {
		return
	}
	r.users = append(r.users, w.UserID)
	r.operations = append(r.operations, w.Operation)
	r.requests = append(r.requests, pgtype.UUID{Bytes: w.RequestID, Valid: w.RequestID != (actor.RequestID{})})
	r.traces = append(r.traces, w.TraceParent)
	r.changes = append(r.changes, string(changes))
}

// Queue adds the statement that inserts the rows, if an SQL condition holds, to a batch.
func (r *Rows) Queue(batch *pgx.Batch, condition string) {
	if len(r.users) > 0 {
		r.queue(batch, condition)
	}
}

// QueueNone adds the statement of Queue, which inserts nothing here, to a batch that prepares
// statements.
func QueueNone(batch *pgx.Batch, condition string) {
	(&Rows{users: []int64{}}).queue(batch, condition)
}

func (r *Rows) queue(batch *pgx.Batch, condition string) {
	batch.Queue(`INSERT INTO ident_audit (user_id, operation, request, traceparent, changes)
		SELECT r.user_id, r.operation, r.request, nullif(r.trace, ''), r.changes::json
		FROM unnest($1::bigint[], $2::text[], $3::uuid[], $4::text[], $5::text[])
			AS r (user_id, operation, request, trace, changes) WHERE `+condition,
		r.users, r.operations, r.requests, r.traces, r.changes)
}
