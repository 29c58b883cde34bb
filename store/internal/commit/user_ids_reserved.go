package commit

import (
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// reservedFor is how long a reserved id may be used. So users are created nearly in the
	// order of their ids, and a client that lists the users after the last id that it knows
	// misses few of them.
	reservedFor = time.Second

	// maxReservedIDs bounds the reserved ids: as many as a group can use.
	maxReservedIDs = maxGroup
)

// reservedIDs are user ids for the next creates, which then need no round trip for an id.
// Transactions with creates draw them, so that there are as many as this instance needed since
// the last such transaction, or in a second: that many are likely to be needed soon. An instance may need
// more than it commits, since it also needs those of the creates that it passes to others.
// Creates that were refused or were replays return theirs. A create that does not follow
// another one soon draws no id, since it would not be used.
type reservedIDs struct {
	mu     sync.Mutex // guards the following fields
	ids    []reservedID
	needed int       // how many ids were taken or missing since a time, but for the first one after a pause
	since  time.Time // when that counting began
	taken  int64     // ids up to this one were found to be taken, wherever they come from
}

type reservedID struct {
	id      int64
	expires time.Time
}

// put adds ids. If there are too many, the oldest are dropped.
func (r *reservedIDs) put(ids []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	expires := time.Now().Add(reservedFor)
	for _, id := range ids {
		if id > r.taken {
			r.ids = append(r.ids, reservedID{id, expires})
		}
	}
	r.ids = r.ids[max(0, len(r.ids)-maxReservedIDs):]
}

// skip drops the ids up to last, now and whenever they are put.
func (r *reservedIDs) skip(last int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = max(r.taken, last)
	r.ids = slices.DeleteFunc(r.ids, func(id reservedID) bool { return id.id <= r.taken })
}

// resetTaken makes all ids count as free.
func (r *reservedIDs) resetTaken() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = 0
}

func (r *reservedIDs) isTaken(id int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return id <= r.taken
}

// take returns an id, or 0 if there is none.
func (r *reservedIDs) take() (id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.since) >= reservedFor {
		r.needed, r.since = 0, now
	} else {
		r.needed++
	}
	r.dropExpired()
	if len(r.ids) == 0 {
		return 0
	}
	id, r.ids = r.ids[0].id, r.ids[1:]
	return id
}

// dropExpired drops the ids that may not be used any more, which are the first ones. mu must be
// held.
func (r *reservedIDs) dropExpired() {
	now := time.Now()
	for len(r.ids) > 0 && now.After(r.ids[0].expires) {
		r.ids = r.ids[1:]
	}
}

// missing returns how many ids a transaction with creates is to draw.
func (r *reservedIDs) missing() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	needed := min(r.needed, maxReservedIDs)
	r.needed, r.since = 0, time.Now()
	r.dropExpired()
	return max(0, needed-len(r.ids))
}

// queue draws ids if the preconditions of the group's transaction hold. The ids may be put when
// the transaction is committed.
func (r *reservedIDs) queue(statements *pgx.Batch, group []*pending, ids *[]int64) {
	if !slices.ContainsFunc(group, func(p *pending) bool { return p.first().IsCreate() }) {
		return
	}
	if n := r.missing(); n > 0 {
		statements.Queue(nextIDs+" WHERE "+preconditionsHold, n).Query(func(rows pgx.Rows) (err error) {
			*ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		})
	}
}
