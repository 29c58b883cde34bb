package commit

import (
	"context"
	"sync"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/store/internal/leases"
	"github.com/glotpod/ident/store/internal/postgres"
)

// If the caller of a write goes away while the outcome is unknown, nobody repeats the write
// under its lease. The next write to the partition would find out whether it was committed, and
// so whether it has to be notified. There may be none for hours.

// abandoned are the leases with a write that was abandoned while its outcome was unknown. They are
// safe for concurrent use.
type abandoned struct {
	mu     sync.Mutex              // guards the following field
	writes map[partition.Lease]int // as many as were noted since the goroutine for the lease began
}

// add notes a write. It returns true if a goroutine has to be started that follows the writes of
// the lease.
func (a *abandoned) add(lease partition.Lease) (first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writes[lease]++
	return a.writes[lease] == 1
}

// count returns how many writes were noted.
func (a *abandoned) count(lease partition.Lease) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.writes[lease]
}

// remove forgets a lease, unless more than n writes were noted.
func (a *abandoned) remove(lease partition.Lease, n int) (removed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.writes[lease] > n {
		return false
	}
	delete(a.writes, lease)
	return true
}

// followAbandoned has the outbox read the log once no transaction of a partition is under way. One had
// an unknown outcome and has no caller any more.
func (c *Committer) followAbandoned(lease partition.Lease) {
	if lease.Epoch == 0 || c.closing.Err() != nil || !c.abandoned.add(lease) {
		return // a write to no partition is not notified; the next owner finds what this one leaves
	}
	c.running.Go(func() {
		pauses := wait.Backoff{First: firstAttemptPause, Longest: longestAttemptPause}
		for {
			n := c.abandoned.count(lease)
			if c.isIdle(lease.Partition) {
				c.outbox.Missed(lease)
				if c.abandoned.remove(lease, n) {
					return
				}
			}
			if pauses.Wait(c.closing) != nil {
				return
			}
		}
	})
}

// isIdle reports whether the database replies that no transaction writes to a partition. The
// question delays no other transaction.
func (c *Committer) isIdle(number int) (idle bool) {
	ctx, cancel := context.WithTimeout(c.working, postgres.AttemptTimeout)
	defer cancel()
	err := c.pool.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock_shared($1, $2)", leases.OrderClass, number).Scan(&idle)
	return err == nil && idle
}
