package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/postgres"
)

const (
	// maxClaims is how many partitions are claimed in one transaction, which
	// takes a lock for each: the database has room for a few thousand.
	maxClaims = 512

	// claimLimits are a claim's own: it waits for writers that are at work, but
	// not for one that is frozen, and lets nobody wait for long if it is frozen
	// itself.
	claimLimits = `SELECT set_config('lock_timeout', '200ms', true),
		set_config('idle_in_transaction_session_timeout', '1s', true)`
)

// Claim carries out claims and answers each, in their order, by
// [ownership.Claimed] or [ownership.ClaimRefused]. On an error the outcome of
// all is unknown. It takes 5 s at the most.
//
// A claim that deposes a holder that is frozen, or cut off, in the middle of a
// transaction ends that one's connections. Other claims are committed before,
// and do not wait for that.
func (s *Store) Claim(ctx context.Context, claims []ownership.Claim) ([]ownership.Event, error) {
	limited, cancel := context.WithTimeout(ctx, epochTimeout)
	defer cancel()
	events := make([]ownership.Event, len(claims))
	var freeing, deposing []int // indices of claims
	for i, c := range claims {
		if c.Depose == 0 {
			freeing = append(freeing, i)
		} else {
			deposing = append(deposing, i)
		}
	}
	for _, part := range [...][]int{freeing, deposing} {
		for chunk := range slices.Chunk(part, maxClaims) {
			c := &claiming{store: s, events: events, all: claims, indices: chunk}
			if err := c.run(limited); err != nil {
				return nil, s.logged(ctx, "claiming partitions", err)
			}
		}
	}
	return events, nil
}

// A claiming is the claims that share a transaction.
type claiming struct {
	store   *Store
	all     []ownership.Claim
	indices []int // of those of all that are meant
	events  []ownership.Event

	locked map[int]bool             // the partitions whose lock was taken
	rows   map[int]ownership.Row    // as they are, including what was claimed
	won    map[int]ownership.Member // by partition
}

// run tries until the claims are decided, or an outcome is unknown, or ctx is
// done.
func (c *claiming) run(ctx context.Context) error {
	for {
		err := c.store.pool.Transact(ctx, c.try)
		if err == nil || postgres.Classify(err) != postgres.Contended {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		if err := c.endHolders(ctx); err != nil {
			return err
		}
	}
}

// try is one transaction of two round trips.
func (c *claiming) try(ctx context.Context, conn *pgx.Conn) error {
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

// lock takes the locks on those partitions that can be had, and then reads
// their rows and the others'. A holder that is not deposed does not notice.
func (c *claiming) lock(ctx context.Context, conn *pgx.Conn) error {
	c.locked = make(map[int]bool)
	c.rows = make(map[int]ownership.Row)
	partitions, deposed := c.columns()
	batch := new(pgx.Batch)
	batch.Queue("begin isolation level read committed")
	batch.Queue(claimLimits)
	batch.Queue(`SELECT partition, pg_advisory_xact_lock($1, partition) FROM (
			SELECT partition FROM ident_partitions JOIN unnest($2::int[], $3::bigint[]) AS c (partition, depose) USING (partition)
			WHERE released OR epoch = depose ORDER BY partition OFFSET 0) AS free`, fenceClass, partitions, deposed).
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
	batch.Queue(rowColumns+" WHERE partition = ANY($1::int[])", partitions).Query(func(rows pgx.Rows) error {
		all, err := readRows(rows)
		for _, row := range all {
			c.rows[row.Partition] = row
		}
		return err
	})
	return conn.SendBatch(ctx, batch).Close()
}

func (c *claiming) columns() (partitions []int, deposed []int64) {
	for _, i := range c.indices {
		partitions = append(partitions, c.all[i].Partition)
		deposed = append(deposed, c.all[i].Depose)
	}
	return partitions, deposed
}

// decide answers the claims one after another.
func (c *claiming) decide() error {
	c.won = make(map[int]ownership.Member)
	for _, i := range c.indices {
		claim := &c.all[i]
		row, exists := c.rows[claim.Partition]
		if !exists {
			return fmt.Errorf("partition %d is not in the epoch table", claim.Partition)
		}
		if c.locked[claim.Partition] && (row.Released || row.Epoch == claim.Depose) {
			row = ownership.Row{HeldLease: ownership.HeldLease{Lease: partition.Lease{Partition: claim.Partition, Epoch: row.Epoch + 1}, Holder: claim.By}}
			c.rows[claim.Partition], c.won[claim.Partition] = row, claim.By
			c.events[i] = ownership.Claimed{Partition: claim.Partition, Attempt: claim.Attempt, Epoch: row.Epoch}
		} else {
			c.events[i] = ownership.ClaimRefused{Attempt: claim.Attempt, Row: row}
		}
	}
	return nil
}

// commit writes the rows that were claimed.
func (c *claiming) commit(ctx context.Context, conn *pgx.Conn) error {
	if len(c.won) == 0 {
		_, err := conn.Exec(ctx, "rollback")
		return err
	}
	batch := new(pgx.Batch)
	c.queue(batch)
	batch.Queue("commit")
	return conn.SendBatch(ctx, batch).Close()
}

// queue writes what was claimed.
func (c *claiming) queue(batch *pgx.Batch) {
	var partitions []int
	var epochs []int64
	var by members
	for _, partition := range slices.Sorted(maps.Keys(c.won)) {
		partitions = append(partitions, partition)
		epochs = append(epochs, c.rows[partition].Epoch)
		by.add(c.won[partition])
	}
	batch.Queue(`UPDATE ident_partitions p
		SET epoch = c.epoch, holder = c.name, holder_start = c.start, holder_session = c.session, released = false, claimed_at = now()
		FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[]) AS c (partition, epoch, name, start, session)
		WHERE p.partition = c.partition`, partitions, epochs, by.names, by.starts, by.sessions)
}

// endHolders ends the connections that hold the locks on partitions whose
// holders are still to be deposed. What they were doing is rolled back, or has
// been committed.
func (c *claiming) endHolders(ctx context.Context) error {
	partitions, deposed := c.columns()
	tag, err := c.store.pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM (
			SELECT DISTINCT l.pid FROM unnest($2::int[], $3::bigint[]) AS c (partition, depose)
			JOIN ident_partitions p ON p.partition = c.partition AND p.epoch = c.depose AND NOT p.released
			JOIN pg_locks l ON l.objid = c.partition::oid
			WHERE l.locktype = 'advisory' AND l.classid = $1 AND l.objsubid = 2 AND l.mode = 'ShareLock' AND l.granted
				AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS holders`,
		fenceClass, partitions, deposed)
	if err != nil {
		return fmt.Errorf("ending connections that are in the way: %w", err)
	}
	if n := tag.RowsAffected(); n > 0 {
		c.store.log.Warn("ended connections of holders that are deposed", zap.Int64("connections", n))
	}
	return nil
}
