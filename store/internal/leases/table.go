package leases

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/history"
	"github.com/glotpod/ident/store/internal/outbox"
	"github.com/glotpod/ident/store/internal/postgres"
)

// LockClass is the first key of the advisory locks on partitions; the second key is the
// partition: "iden" in ASCII. Writes take the lock shared, claims and hand-overs
// exclusively.
const LockClass = 0x6964656e

// OrderClass is the first key of the advisory locks that order the transactions of writes; the
// second key is the partition: "ideo" in ASCII. Writes take the lock exclusively, so that one
// transaction of a partition at a time is under way, also if one was lost.
const OrderClass = LockClass + 1

// changeTimeout bounds a change to the epoch table, all attempts included.
const changeTimeout = 5 * time.Second

// lockLimits apply to transactions that take locks exclusively. Such a transaction waits
// for writers that are at work, but not for a frozen one, and does not delay other
// transactions for long if this process freezes.
const lockLimits = `SELECT set_config('lock_timeout', '200ms', true),
		set_config('idle_in_transaction_session_timeout', '1s', true)`

// rowColumns selects rows of the present generation.
const rowColumns = `SELECT partition, epoch, coalesce(holder, ''), coalesce(holder_start, 0), coalesce(holder_session, 0), released
	FROM ident_partitions WHERE ended_at IS NULL`

// A Table is the epoch table. It is safe for concurrent use.
type Table struct {
	pool   *postgres.Pool
	days   *changelog.Days
	outbox *outbox.Outbox
	seen   *history.Seen
	log    *zap.Logger
}

// NewTable returns the epoch table of a database.
func NewTable(pool *postgres.Pool, days *changelog.Days, o *outbox.Outbox, seen *history.Seen, log *zap.Logger) *Table {
	return &Table{pool: pool, days: days, outbox: o, seen: seen, log: log}
}

// Survey returns the rows of the present generation by partition. A partition that was never held is released, and
// its holder is the zero member. The outbox forgets what it knows of leases that have ended. If an
// epoch is lower than before, the database went back in place: its history is examined, which
// raises the epochs.
func (t *Table) Survey(ctx context.Context) ([]ownership.Row, error) {
	before := t.seen.Epochs()
	all, err := t.readRows(ctx)
	if err == nil && t.seen.Rows(all, before) {
		t.pool.Suspect()
		all, err = t.readRows(ctx)
	}
	if err != nil {
		return nil, postgres.LogError(ctx, t.log, "reading the epoch table", err)
	}
	t.outbox.Forget(func(l partition.Lease) bool { // also those of a generation that has ended
		i, found := slices.BinarySearchFunc(all, l.Partition, func(row ownership.Row, number int) int { return row.Partition - number })
		return !found || (all[i].Epoch > l.Epoch || all[i].Epoch == l.Epoch && all[i].Released)
	})
	return all, nil
}

func (t *Table) readRows(ctx context.Context) (all []ownership.Row, err error) {
	err = t.pool.Retry(ctx, func(ctx context.Context) error {
		return t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
			rows, _ := conn.Query(ctx, rowColumns+" ORDER BY partition")
			all, err = collectRows(rows)
			return err
		})
	})
	return all, err
}

func collectRows(rows pgx.Rows) ([]ownership.Row, error) {
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (row ownership.Row, err error) {
		by := &row.Holder
		err = r.Scan(&row.Partition, &row.Epoch, &by.Name, &by.Incarnation.Start, &by.Incarnation.Session, &row.Released)
		return row, err
	})
}

// heldLeases, with a query for a change that was not notified, selects those of the leases $4, $5
// that the member $1, $2, $3 holds, and what was notified of their partitions.
const heldLeases = `SELECT partition, epoch, notified, notified_on,
		(SELECT min(l.position) FROM (%s) AS l) IS NOT NULL
	FROM unnest($4::int[], $5::bigint[]) AS l (partition, epoch) JOIN ident_partitions p USING (partition, epoch)
	WHERE NOT released AND holder = $1 AND holder_start = $2 AND holder_session = $3`

// queueHeldLeases adds the statement heldLeases to a batch.
func queueHeldLeases(batch *pgx.Batch, tables changelog.Tables, by ownership.Member, partitions []int, epochs []int64) *pgx.QueuedQuery {
	backlog := tables.Union("(SELECT position FROM %s WHERE partition = p.partition AND position > p.notified ORDER BY position LIMIT 1)")
	return batch.Queue(fmt.Sprintf(heldLeases, backlog), by.Name, by.Incarnation.Start, by.Incarnation.Session, partitions, epochs)
}

// endedLeases selects those of the leases $4, $5 that the member $1, $2, $3 does not hold. It
// finds each row by the primary key.
const endedLeases = `SELECT l.partition, l.epoch FROM unnest($4::int[], $5::bigint[]) AS l (partition, epoch)
	WHERE (SELECT p.epoch FROM ident_partitions p WHERE p.partition = l.partition AND NOT p.released
		AND p.holder = $1 AND p.holder_start = $2 AND p.holder_session = $3) IS DISTINCT FROM l.epoch`

// Ended returns those of the leases, all of one member, that have ended. It is one attempt in
// one round trip, and does not log errors.
func (t *Table) Ended(ctx context.Context, all []partition.Lease) (ended []partition.Lease, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	by := all[0].Holder
	var columns leaseColumns
	for _, l := range all {
		columns.add(l)
	}
	err = t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, endedLeases, by.Name, by.Incarnation.Start, by.Incarnation.Session, columns.partitions, columns.epochs)
		ended, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (partition.Lease, error) {
			l := partition.Lease{Holder: by}
			return l, r.Scan(&l.Partition, &l.Epoch)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("asking whether leases stand: %w", err)
	}
	return ended, nil
}

const heldBack = `SELECT partition, user_id, position FROM ident_held_back WHERE partition = ANY($1::int[])`

// TakeOver returns those of the leases that by holds, with what was notified. The synchronous
// standbys then have these leases too.
func (t *Table) TakeOver(ctx context.Context, by ownership.Member, wanted []partition.Lease) (all []actor.TakenOver, err error) {
	var starts []*start
	err = t.pool.Retry(ctx, func(ctx context.Context) (err error) {
		starts, err = t.readStarts(ctx, by, wanted)
		if changelog.IsWrongDay(err) {
			t.days.Forget()
			starts, err = t.readStarts(ctx, by, wanted)
		}
		return err
	})
	if err != nil {
		return nil, postgres.LogError(ctx, t.log, "taking partitions over", err)
	}
	for _, s := range starts {
		t.seen.Epoch(s.Lease.Partition, s.Lease.Epoch)
		t.outbox.TakeOver(s.TakenOver, s.notifiedOn)
		all = append(all, s.TakenOver)
	}
	return all, nil
}

// A start is what the owner of a partition has to know when it takes the partition over.
type start struct {
	actor.TakenOver
	notifiedOn time.Time
}

// readStarts reads what a member has to know about the leases that it holds.
func (t *Table) readStarts(ctx context.Context, by ownership.Member, wanted []partition.Lease) (starts []*start, err error) {
	tables, err := t.days.Tables(ctx)
	if err != nil {
		return nil, err
	}
	var columns leaseColumns
	for _, l := range wanted {
		columns.add(l)
	}
	byPartition := make(map[int]*start)
	batch := new(pgx.Batch)
	queueHeldLeases(batch, tables, by, columns.partitions, columns.epochs).
		Query(func(rows pgx.Rows) error {
			for rows.Next() {
				s := &start{TakenOver: actor.TakenOver{Lease: partition.Lease{Holder: by}}}
				if err := rows.Scan(&s.Lease.Partition, &s.Lease.Epoch, &s.Notified, &s.notifiedOn, &s.HasLater); err != nil {
					return err
				}
				s.HasLater = s.HasLater || s.notifiedOn.Before(tables.Date.AddDate(0, 0, -1))
				s.HeldBack = make(map[int64]int64)
				starts, byPartition[s.Lease.Partition] = append(starts, s), s
			}
			return rows.Err()
		})
	batch.Queue(heldBack, columns.partitions).Query(func(rows pgx.Rows) error {
		var number int
		var user, position int64
		_, err := pgx.ForEachRow(rows, []any{&number, &user, &position}, func() error {
			if s := byPartition[number]; s != nil {
				s.HeldBack[user] = position
			}
			return nil
		})
		return err
	})
	postgres.QueueWAL(batch)
	err = t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		starts = nil
		return conn.SendBatch(ctx, batch).Close()
	})
	return starts, err
}

// leaseColumns are leases as the parameters of a statement.
type leaseColumns struct {
	partitions []int
	epochs     []int64
	by         memberColumns
}

func (c *leaseColumns) add(l partition.Lease) {
	c.partitions, c.epochs = append(c.partitions, l.Partition), append(c.epochs, l.Epoch)
	c.by.add(l.Holder)
}

// memberColumns are members as the parameters of a statement.
type memberColumns struct {
	names            []string
	starts, sessions []int64
}

func (c *memberColumns) add(m ownership.Member) {
	c.names = append(c.names, m.Name)
	c.starts = append(c.starts, m.Incarnation.Start)
	c.sessions = append(c.sessions, m.Incarnation.Session)
}
