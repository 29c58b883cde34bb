package changelog

import (
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/glotpod/ident/actor"
)

// EpochBits is how far the epoch is shifted in a position. The bits below count the changes
// of the epoch: enough for 1,000 a second under one lease in 34 years.
const EpochBits = 40

// MaxEpoch is the last epoch that has positions: enough for a lease each minute in 15 years. The
// first position of the next epoch is a number too.
const MaxEpoch = 1<<(63-EpochBits) - 2

// FirstPosition returns the first position of an epoch.
func FirstPosition(epoch int64) int64 { return epoch<<EpochBits | 1 }

// EpochOf returns the epoch that a position belongs to.
func EpochOf(position int64) int64 { return position >> EpochBits }

// uuids is a parameter of type uuid[].
type uuids = pgtype.FlatArray[pgtype.UUID]

// uuidOf returns a request id as a parameter.
func uuidOf(id actor.RequestID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

// Rows are new rows of the log, column by column. The zero Rows are none.
type Rows struct {
	changes  changeColumns
	refusals refusalColumns
	sealed   sealedColumns
}

type changeColumns struct {
	requests   uuids
	digests    []int64
	users      []int64
	sequences  []int64
	positions  []int64
	partitions []int
	operations []string
	changes    []string // "" is NULL
	traces     []string // "" is NULL
	callers    []string // "" is NULL
}

type refusalColumns struct {
	requests   uuids
	digests    []int64
	users      []int64
	operations []string
	codes      []string
	messages   []string
	traces     []string // "" is NULL
	callers    []string // "" is NULL
}

type sealedColumns struct {
	partitions []int
	positions  []int64
	users      []int64
	bodies     [][]byte
}

// A Change is a change that a request has made.
type Change struct {
	Partition int
	Position  int64
	Sequence  int64
	Change    []byte // see [actor.Decision]
	Sealed    []byte // the encrypted notification, if it has access tokens
}

// AddChange adds the row of a request that was carried out.
func (r *Rows) AddChange(id actor.RequestID, w *actor.Write, change Change) {
	c := &r.changes
	c.requests = append(c.requests, uuidOf(id))
	c.digests = append(c.digests, w.Digest)
	c.users = append(c.users, w.UserID)
	c.sequences = append(c.sequences, change.Sequence)
	c.positions = append(c.positions, change.Position)
	c.partitions = append(c.partitions, change.Partition)
	c.operations = append(c.operations, w.Operation)
	c.changes = append(c.changes, string(change.Change))
	c.traces = append(c.traces, w.TraceParent)
	c.callers = append(c.callers, w.Caller)
	if change.Sealed != nil {
		s := &r.sealed
		s.partitions = append(s.partitions, change.Partition)
		s.positions = append(s.positions, change.Position)
		s.users = append(s.users, w.UserID)
		s.bodies = append(s.bodies, change.Sealed)
	}
}

// AddRefusal adds the row of a request that was refused.
func (r *Rows) AddRefusal(id actor.RequestID, w *actor.Write, why *actor.Refusal) {
	c := &r.refusals
	user := w.UserID
	if w.Refusal() != nil || w.Operation == "create" {
		user = 0
	}
	c.requests = append(c.requests, uuidOf(id))
	c.digests = append(c.digests, w.Digest)
	c.users = append(c.users, user)
	c.operations = append(c.operations, w.Operation)
	c.codes = append(c.codes, string(why.Code))
	c.messages = append(c.messages, why.Message)
	c.traces = append(c.traces, w.TraceParent)
	c.callers = append(c.callers, w.Caller)
}

// IsEmpty reports whether there are no rows.
func (r *Rows) IsEmpty() bool { return r.changes.requests == nil && r.refusals.requests == nil }

// Queue adds the statements that insert the rows, if an SQL condition holds, to a batch. For
// each change, read gets a row with the id and the time of the transaction.
func (r *Rows) Queue(batch *pgx.Batch, t Tables, condition string, read func(pgx.Rows) error) {
	if c := &r.refusals; c.requests != nil {
		batch.Queue(`INSERT INTO `+t.Today+` (request, digest, user_id, operation, code, message, traceparent, caller)
			SELECT r.request, r.digest, r.user_id, r.operation, r.code, r.message, nullif(r.traceparent, ''), nullif(r.caller, '')
			FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
				AS r (request, digest, user_id, operation, code, message, traceparent, caller) WHERE `+condition,
			c.requests, c.digests, c.users, c.operations, c.codes, c.messages, c.traces, c.callers)
	}
	if s := &r.sealed; s.partitions != nil {
		batch.Queue(`INSERT INTO ident_sealed (partition, position, user_id, body)
			SELECT * FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bytea[]) WHERE `+condition,
			s.partitions, s.positions, s.users, s.bodies)
	}
	if c := &r.changes; c.requests != nil {
		batch.Queue(`INSERT INTO `+t.Today+` (request, digest, user_id, sequence, position, partition, operation, change, traceparent, caller)
			SELECT r.request, r.digest, r.user_id, r.sequence, r.position, r.partition, r.operation,
				nullif(r.change, '')::json, nullif(r.traceparent, ''), nullif(r.caller, '')
			FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::int[], $7::text[], $8::text[], $9::text[], $10::text[])
				AS r (request, digest, user_id, sequence, position, partition, operation, change, traceparent, caller) WHERE `+condition+`
			RETURNING pg_current_xact_id()::xid, at`,
			c.requests, c.digests, c.users, c.sequences, c.positions, c.partitions, c.operations, c.changes, c.traces, c.callers).Query(read)
	}
}

// QueueNone adds the statement for changes, which inserts nothing here, to a batch that
// prepares statements.
func QueueNone(batch *pgx.Batch, t Tables, condition string) {
	r := Rows{changes: changeColumns{requests: uuids{}}}
	r.Queue(batch, t, condition, func(pgx.Rows) error { return nil })
}
