package leases

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/postgres"
)

// maxClaims bounds the partitions that one transaction claims. It takes a lock for each,
// and the database has room for a few thousand.
const maxClaims = 512

// Claim carries out claims. It returns for each, in their order, an [ownership.Claimed], an
// [ownership.ClaimRefused] or, if the partition has no epoch left, an [ownership.ClaimFailed]. After an error the outcome of all claims is unknown. Claim
// takes 5 s at most.
//
// If a claim deposes a holder that is frozen or cut off in the middle of a transaction,
// Claim terminates that holder's connections. Claims that depose nobody are committed
// first and do not wait.
func (t *Table) Claim(ctx context.Context, claims []ownership.Claim) ([]ownership.Event, error) {
	limited, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	events := make([]ownership.Event, len(claims))
	var peaceful, deposing []int // indices of claims
	for i, c := range claims {
		if c.Depose == 0 {
			peaceful = append(peaceful, i)
		} else {
			deposing = append(deposing, i)
		}
	}
	for _, part := range [...][]int{peaceful, deposing} {
		for chunk := range slices.Chunk(part, maxClaims) {
			c := &claimTx{table: t, events: events, all: claims, indices: chunk}
			if err := c.run(limited); err != nil {
				return nil, postgres.LogError(ctx, t.log, "claiming partitions", err)
			}
		}
	}
	return events, nil
}

// A claimTx carries out the claims that share a transaction.
type claimTx struct {
	table   *Table
	all     []ownership.Claim
	indices []int // of the claims in all that this transaction carries out
	events  []ownership.Event

	locked  map[int]bool             // the partitions with a lock that was taken
	rows    map[int]ownership.Row    // by partition; claimed rows as they will be
	claimed map[int]ownership.Member // by partition
}

// run repeats the transaction until the claims are decided, the outcome is unknown, or ctx
// is done.
func (c *claimTx) run(ctx context.Context) error {
	for {
		err := c.table.pool.TransactReserved(ctx, c.try)
		if err == nil || postgres.Classify(err) != postgres.Contended {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		if err := c.terminateHolders(ctx); err != nil {
			return err
		}
	}
}

// try runs the transaction, in two round trips.
func (c *claimTx) try(ctx context.Context, conn *pgx.Conn) error {
	if err := c.lock(ctx, conn); err != nil {
		return fmt.Errorf("locking partitions: %w", err)
	}
	if err := c.decide(); err != nil {
		return err
	}
	if err := c.commit(ctx, conn); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	return nil
}

// lock locks the partitions that can be claimed and then reads the rows of all. This
// does not disturb a holder that is not deposed.
func (c *claimTx) lock(ctx context.Context, conn *pgx.Conn) error {
	c.locked = make(map[int]bool)
	c.rows = make(map[int]ownership.Row)
	partitions, deposed := c.columns()
	batch := new(pgx.Batch)
	batch.Queue("begin isolation level read committed")
	batch.Queue(lockLimits)
	batch.Queue(`SELECT partition, pg_advisory_xact_lock($1, partition) FROM (
			SELECT partition FROM ident_partitions JOIN unnest($2::int[], $3::bigint[]) AS c (partition, depose) USING (partition)
			WHERE ended_at IS NULL AND (released OR epoch = depose) ORDER BY partition OFFSET 0) AS free`, LockClass, partitions, deposed).
		Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var partition int
				if err := rows.Scan(&partition, nil); err != nil {
					return err
				}
				c.locked[partition] = true
			}
			return rows.Err()
		})
	batch.Queue(rowColumns+" AND partition = ANY($1::int[])", partitions).Query(func(rows pgx.Rows) error {
		all, err := collectRows(rows)
		for _, row := range all {
			c.rows[row.Partition] = row
		}
		return err
	})
	return conn.SendBatch(ctx, batch).Close()
}

func (c *claimTx) columns() (partitions []int, deposed []int64) {
	for _, i := range c.indices {
		partitions = append(partitions, c.all[i].Partition)
		deposed = append(deposed, c.all[i].Depose)
	}
	return partitions, deposed
}

// decide decides the claims one after another.
func (c *claimTx) decide() error {
	c.claimed = make(map[int]ownership.Member)
	for _, i := range c.indices {
		claim := &c.all[i]
		row, exists := c.rows[claim.Partition]
		if !exists {
			return fmt.Errorf("partition %d is not in the epoch table", claim.Partition)
		}
		if c.locked[claim.Partition] && (row.Released || row.Epoch == claim.Depose) {
			epoch := max(row.Epoch, claim.Seen) + 1
			if epoch > changelog.MaxEpoch {
				c.table.log.Error("partition has no epoch left and cannot be claimed",
					zap.Int("partition", claim.Partition))
				c.events[i] = ownership.ClaimFailed{Partition: claim.Partition, Attempt: claim.Attempt}
				continue
			}
			deposed := !row.Released
			row = ownership.Row{Lease: partition.Lease{Partition: claim.Partition, Epoch: epoch, Holder: claim.By}}
			c.rows[claim.Partition], c.claimed[claim.Partition] = row, claim.By
			c.events[i] = ownership.Claimed{Partition: claim.Partition, Attempt: claim.Attempt, Epoch: row.Epoch, Deposed: deposed}
		} else {
			c.events[i] = ownership.ClaimRefused{Attempt: claim.Attempt, Row: row}
		}
	}
	return nil
}

// commit writes the claimed rows.
func (c *claimTx) commit(ctx context.Context, conn *pgx.Conn) error {
	if len(c.claimed) == 0 {
		_, err := conn.Exec(ctx, "rollback")
		return err
	}
	batch := new(pgx.Batch)
	c.queueUpdate(batch)
	batch.Queue("commit")
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	for number := range c.claimed {
		c.table.seen.Epoch(number, c.rows[number].Epoch)
	}
	return nil
}

func (c *claimTx) queueUpdate(batch *pgx.Batch) {
	var columns leaseColumns
	for _, partition := range slices.Sorted(maps.Keys(c.claimed)) {
		columns.add(c.rows[partition].Lease)
	}
	by := &columns.by
	batch.Queue(`UPDATE ident_partitions p
		SET epoch = c.epoch, holder = c.name, holder_start = c.start, holder_session = c.session, released = false, claimed_at = now()
		FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[]) AS c (partition, epoch, name, start, session)
		WHERE p.partition = c.partition AND p.ended_at IS NULL`, columns.partitions, columns.epochs, by.names, by.starts, by.sessions)
}

// terminateHolders terminates the connections that hold locks on the partitions with a
// holder that is still to be deposed. Their transactions are rolled back, unless they were committed
// already.
func (c *claimTx) terminateHolders(ctx context.Context) error {
	partitions, deposed := c.columns()
	var terminated int64
	err := c.table.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM (
			SELECT DISTINCT l.pid FROM unnest($2::int[], $3::bigint[]) AS c (partition, depose)
			JOIN ident_partitions p ON p.partition = c.partition AND p.epoch = c.depose AND NOT p.released
			JOIN pg_locks l ON l.objid = c.partition::oid
			WHERE l.locktype = 'advisory' AND l.classid = $1 AND l.objsubid = 2 AND l.mode = 'ShareLock' AND l.granted
				AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS holders`,
			LockClass, partitions, deposed)
		terminated = tag.RowsAffected()
		return err
	})
	if err != nil {
		return fmt.Errorf("terminating connections of deposed holders: %w", err)
	}
	if terminated > 0 {
		c.table.log.Warn("connections of deposed holders terminated", zap.Int64("connections", terminated))
	}
	return nil
}
