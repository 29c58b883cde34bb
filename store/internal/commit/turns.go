package commit

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
)

// One attempt at a time writes to a partition, so that the positions of its changes become
// visible in their order. Pending writes of a partition that is busy wait.

// A turn is the right to write to a partition, and what follows from earlier writes under the
// same lease. Only the attempt that has it uses it.
type turn struct {
	lease   partition.Lease
	next    int64 // the position of the next change
	planned int64 // that of the next change once the attempt is committed

	// nextUnknown says that next may be in use: nobody has looked yet, or an attempt has failed.
	nextUnknown bool

	busy      bool
	busySince time.Time
	waiting   []*pending
}

// turns are the turns of all partitions. It is safe for concurrent use.
type turns struct {
	mu         sync.Mutex // guards the following field, and busy, busySince and waiting of each turn
	partitions map[int]*turn
}

// take takes the turns of the pending writes. It returns those that have their turn. The others
// wait, until give passes them to its caller.
func (t *turns) take(group []*pending) []*pending {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := make(map[*turn]bool, len(group))
	kept := group[:0]
	for _, p := range group {
		if p.lease.Epoch == 0 { // it writes to no partition
			kept = append(kept, p)
			continue
		}
		own := t.partitions[p.lease.Partition]
		switch {
		case own == nil, !own.busy && own.lease != p.lease:
			last := own
			own = &turn{lease: p.lease, next: changelog.FirstPosition(p.lease.Epoch), nextUnknown: true}
			if last == nil || last.lease.Epoch <= p.lease.Epoch { // otherwise the lease has ended
				t.partitions[p.lease.Partition] = own
			}
		case own.busy && (!taken[own] || own.lease != p.lease):
			own.waiting = append(own.waiting, p)
			p.stage.reach(stageTurn)
			continue
		}
		if !own.busy {
			own.busySince = time.Now()
		}
		own.busy, taken[own], p.turn = true, true, own
		kept = append(kept, p)
	}
	return kept
}

// give gives the turns of the pending writes back. It returns the pending writes that have
// waited for them.
func (t *turns) give(group []*pending) (waiting []*pending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range group {
		if p.turn == nil {
			continue
		}
		waiting = append(waiting, p.turn.waiting...)
		p.turn.waiting, p.turn.busy, p.turn = nil, false, nil
	}
	return waiting
}

// usePlanned follows the commit of an attempt, which has used the planned positions.
func usePlanned(group []*pending) {
	for _, p := range group {
		if p.turn != nil {
			p.turn.next = p.turn.planned
		}
	}
}

// isNextUnknown reports whether the next position of one of the pending writes is not certain.
func isNextUnknown(group []*pending) bool {
	for _, p := range group {
		if p.turn != nil && p.turn.nextUnknown {
			return true
		}
	}
	return false
}

// queueLastPositions reads the last positions of the leases whose next position is not
// certain. Lost transactions have ended: the attempt has their locks.
func (a *attempt) queueLastPositions(batch *pgx.Batch) {
	var unknown []*turn
	var partitions []int
	var first, end []int64 // the positions that may be in use
	for _, p := range a.group {
		if t := p.turn; t != nil && t.nextUnknown && !slices.Contains(unknown, t) {
			unknown = append(unknown, t)
			partitions = append(partitions, t.lease.Partition)
			first, end = append(first, t.next), append(end, changelog.FirstPosition(t.lease.Epoch+1))
		}
	}
	if len(unknown) == 0 {
		return
	}
	last := a.tables.Union("(SELECT position FROM %s WHERE partition = l.partition AND position >= l.first AND position < l.ending ORDER BY position DESC LIMIT 1)")
	batch.Queue(fmt.Sprintf(`SELECT l.n, last.position
		FROM unnest($1::int[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS l (partition, first, ending, n), LATERAL (%s) AS last`, last),
		partitions, first, end).Query(func(rows pgx.Rows) error {
		var n, position int64
		_, err := pgx.ForEachRow(rows, []any{&n, &position}, func() error {
			t := unknown[n-1]
			t.planned = max(t.planned, position+1)
			return nil
		})
		return err
	})
}
