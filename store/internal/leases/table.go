package leases

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/outbox"
	"github.com/glotpod/ident/store/internal/postgres"
)

// LockClass is the first key of the advisory locks on partitions; the second key is the
// partition: "iden" in ASCII. Writes take the lock shared, claims and hand-overs
// exclusively.
const LockClass = 0x6964656e

// changeTimeout bounds a change to the epoch table, all attempts included.
const changeTimeout = 5 * time.Second

// lockLimits apply to transactions that take locks exclusively. Such a transaction waits
// for writers that are at work, but not for a frozen one, and does not delay other
// transactions for long if this process freezes.
const lockLimits = `SELECT set_config('lock_timeout', '200ms', true),
		set_config('idle_in_transaction_session_timeout', '1s', true)`

const rowColumns = `SELECT partition, epoch, coalesce(holder, ''), coalesce(holder_start, 0), coalesce(holder_session, 0), released
	FROM ident_partitions`

// A Table is the epoch table. It is safe for concurrent use.
type Table struct {
	pool   *postgres.Pool
	outbox *outbox.Outbox
	log    *zap.Logger
}

// NewTable returns the epoch table of a database.
func NewTable(pool *postgres.Pool, o *outbox.Outbox, log *zap.Logger) *Table {
	return &Table{pool: pool, outbox: o, log: log}
}

// Survey returns all rows by partition. A partition that was never held is released, and
// its holder is the zero member.
func (t *Table) Survey(ctx context.Context) ([]ownership.Row, error) {
	var all []ownership.Row
	err := t.pool.Retry(ctx, func(ctx context.Context) error {
		return t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
			rows, _ := conn.Query(ctx, rowColumns+" ORDER BY partition")
			all, err = collectRows(rows)
			return err
		})
	})
	if err != nil {
		return nil, postgres.LogError(ctx, t.log, "reading the epoch table", err)
	}
	return all, nil
}

func collectRows(rows pgx.Rows) ([]ownership.Row, error) {
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (row ownership.Row, err error) {
		by := &row.Holder
		err = r.Scan(&row.Partition, &row.Epoch, &by.Name, &by.Incarnation.Start, &by.Incarnation.Session, &row.Released)
		return row, err
	})
}

const heldLeases = `SELECT partition, epoch, ` + outbox.Backlog + `
	FROM unnest($4::int[], $5::bigint[]) AS l (partition, epoch) JOIN ident_partitions USING (partition, epoch)
	WHERE NOT released AND holder = $1 AND holder_start = $2 AND holder_session = $3`

// TakeOver returns which of the leases by holds, and those of their partitions that have
// stored notifications. The synchronous standbys then have these leases too.
func (t *Table) TakeOver(ctx context.Context, by ownership.Member, wanted []partition.Lease) (held []partition.Lease, backlog []int, err error) {
	var columns leaseColumns
	for _, l := range wanted {
		columns.add(l)
	}
	err = t.pool.Retry(ctx, func(ctx context.Context) error {
		removal := t.outbox.Remove()
		batch := new(pgx.Batch)
		removal.Queue(batch)
		batch.Queue(heldLeases, by.Name, by.Incarnation.Start, by.Incarnation.Session, columns.partitions, columns.epochs).Query(func(rows pgx.Rows) error {
			lease := partition.Lease{Holder: by}
			var has bool
			_, err := pgx.ForEachRow(rows, []any{&lease.Partition, &lease.Epoch, &has}, func() error {
				held = append(held, lease)
				if has {
					backlog = append(backlog, lease.Partition)
				}
				return nil
			})
			return err
		})
		postgres.QueueWAL(batch)
		err := t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			held, backlog = nil, nil
			return conn.SendBatch(ctx, batch).Close()
		})
		removal.Done(err)
		return err
	})
	if err != nil {
		return nil, nil, postgres.LogError(ctx, t.log, "taking partitions over", err)
	}
	return held, backlog, nil
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
