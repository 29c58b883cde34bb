package store

import (
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/leases"
)

// queueLocks takes the locks on the partitions that the group writes to, and
// returns these.
func (g *group) queueLocks(batch *pgx.Batch) (partitions []int) {
	for _, p := range g.writes {
		if p.lease.Epoch != 0 {
			partitions = append(partitions, p.lease.Partition)
		}
	}
	slices.Sort(partitions) // all take the locks in this order, so that none waits in a circle
	partitions = slices.Compact(partitions)
	if len(partitions) > 0 {
		batch.Queue("SELECT pg_advisory_xact_lock_shared($1, p) FROM unnest($2::int[]) AS p", leases.LockClass, partitions)
	}
	return partitions
}

// queueFence takes the locks and then, by a statement of its own, which therefore
// sees what was committed while the locks were waited for, reads the epochs.
func (g *group) queueFence(batch *pgx.Batch) {
	partitions := g.queueLocks(batch)
	if len(partitions) == 0 {
		return
	}
	batch.Queue("SELECT partition, epoch FROM ident_partitions WHERE partition = ANY($1::int[]) AND NOT released", partitions).
		Query(g.readEpochs)
}

func (g *group) readEpochs(rows pgx.Rows) error {
	for rows.Next() {
		var partition int
		var epoch int64
		if err := rows.Scan(&partition, &epoch); err != nil {
			return err
		}
		g.epochs[partition] = epoch
	}
	return rows.Err()
}

// good says whether writes under the lease may be committed.
func (g *group) good(lease partition.Lease) bool {
	return lease.Epoch == 0 || g.epochs[lease.Partition] == lease.Epoch
}

// setAsideFenced takes those writes out of the group whose lease is over. Only
// one that an earlier try has committed, while the lease was good, is left in.
// If that try has not committed it, it never will: the claim that ended the
// lease has waited for its end.
func (g *group) setAsideFenced() {
	g.writes = slices.DeleteFunc(g.writes, func(p *pending) bool {
		if _, known := g.known[p.identities[0]]; g.good(p.lease) || known && p.unsure {
			return false
		}
		p.part = 0
		g.plan.fail(p, actor.ErrFenced)
		return true
	})
}
