package commit

import (
	"encoding/binary"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/leases"
)

// queueLocks locks the partitions of the attempt and returns them. Writes lock a partition
// shared, claims exclusively. By a second lock, one transaction of writes waits for another.
func (a *attempt) queueLocks(batch *pgx.Batch) (partitions []int) {
	for _, p := range a.group {
		if p.lease.Epoch != 0 {
			partitions = append(partitions, p.lease.Partition)
		}
	}
	slices.Sort(partitions) // every transaction takes the locks in this order, so no deadlock is possible
	partitions = slices.Compact(partitions)
	if len(partitions) > 0 {
		batch.Queue("SELECT pg_advisory_xact_lock_shared($1, p), pg_advisory_xact_lock($2, p) FROM unnest($3::int[]) AS p",
			leases.LockClass, leases.OrderClass, partitions)
	}
	if a.tables.NearMidnight {
		a.queueRequestLocks(batch)
	}
	return partitions
}

// requestLock is the first part of the keys of advisory locks on request ids: "ir" in ASCII.
const requestLock = 0x6972 << 48

// queueRequestLocks locks the request ids of the attempt. Another transaction with one of these
// ids then sees what this one commits, even if it uses the table of another day.
func (a *attempt) queueRequestLocks(batch *pgx.Batch) {
	var keys []int64
	for _, p := range a.group {
		for _, id := range p.requestIDs {
			keys = append(keys, requestLock|int64(binary.BigEndian.Uint64(id[:8])>>16))
		}
	}
	slices.Sort(keys) // against deadlocks
	batch.Queue("SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) AS k", slices.Compact(keys))
}

// queueFence locks the partitions and reads their leases. The second statement sees what
// was committed while the first one waited for the locks.
func (a *attempt) queueFence(batch *pgx.Batch) {
	partitions := a.queueLocks(batch)
	if len(partitions) == 0 {
		return
	}
	batch.Queue(`SELECT partition, epoch, coalesce(holder, ''), coalesce(holder_start, 0), coalesce(holder_session, 0)
		FROM ident_partitions WHERE partition = ANY($1::int[]) AND NOT released`, partitions).Query(a.readLeases)
}

func (a *attempt) readLeases(rows pgx.Rows) error {
	for rows.Next() {
		var l partition.Lease
		by := &l.Holder
		if err := rows.Scan(&l.Partition, &l.Epoch, &by.Name, &by.Incarnation.Start, &by.Incarnation.Session); err != nil {
			return err
		}
		a.leases[l.Partition] = l
	}
	return rows.Err()
}

// leaseValid reports whether writes under the lease may be committed.
func (a *attempt) leaseValid(lease partition.Lease) bool {
	return lease.Epoch == 0 || a.leases[lease.Partition] == lease
}

// failFenced has the pending writes of ended leases fail. The exception is one that an
// earlier attempt of unknown outcome has committed, while the lease was valid. If that
// attempt has not committed it yet, it never will: the claim that ended the lease has
// waited for the end of that attempt.
func (a *attempt) failFenced() {
	a.group = slices.DeleteFunc(a.group, func(p *pending) bool {
		if a.leaseValid(p.lease) || a.isReplay(p) && p.isOutcomeUnknown() {
			return false
		}
		p.inAttempt = 0
		p.setDecided(nil, actor.ErrFenced)
		return true
	})
}
