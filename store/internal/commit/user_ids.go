package commit

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/store/internal/batch"
	"github.com/glotpod/ident/store/internal/postgres"
)

// nextIDs takes $1 user ids from the sequence.
const nextIDs = `SELECT nextval(sequence) FROM
	(SELECT pg_get_serial_sequence('users', 'id')::regclass AS sequence) AS s, generate_series(1, $1)`

// maxIDRequests bounds how many user ids are taken in one round trip.
const maxIDRequests = 32

// maxStaleDraws is how many draws of Next may return ids that count as taken. A draw that
// began before the sequence was set returns such ids; all draws do after another program
// has lowered the sequence.
const maxStaleDraws = 3

// UserIDs hands out the ids of new users. It is safe for concurrent use.
type UserIDs struct {
	pool     *postgres.Pool
	closing  context.Context // done when no new query is to begin
	log      *zap.Logger
	requests *batch.Batcher[*idRequest]
	reserved reservedIDs

	skipping chan struct{} // has a value while a call of SkipTaken sets the sequence
}

// An idRequest waits for a user id.
type idRequest struct{ result chan idResult }

type idResult struct {
	id  int64
	err error
}

// NewUserIDs needs one goroutine that runs Work, until closing is done. The channel stopped
// is closed when Work has returned.
func NewUserIDs(closing context.Context, stopped <-chan struct{}, pool *postgres.Pool, log *zap.Logger) *UserIDs {
	u := &UserIDs{pool: pool, closing: closing, log: log, skipping: make(chan struct{}, 1)}
	u.requests = batch.New(batch.Config[*idRequest]{
		MaxItems: maxIDRequests,
		Process:  u.answer,
		Discard:  func(r *idRequest) { r.result <- idResult{err: batch.ErrClosed} },
		Closing:  closing.Done(),
		Stopped:  stopped,
	})
	return u
}

// Work takes ids for the calls of Next.
func (u *UserIDs) Work() { u.requests.Work() }

// TakeReserved returns a user id that needs no round trip, or 0 if there is none.
func (u *UserIDs) TakeReserved() int64 { return u.reserved.take() }

// Next returns a user id that no other call returns.
func (u *UserIDs) Next(ctx context.Context) (id int64, err error) {
	for range maxStaleDraws {
		if id, err = u.draw(ctx); err != nil || !u.reserved.isTaken(id) {
			return id, err
		}
	}
	u.reserved.resetTaken() // if a user has the id, the create finds that out
	return id, nil
}

// draw takes an id from the sequence.
func (u *UserIDs) draw(ctx context.Context) (id int64, err error) {
	err = u.pool.Retry(ctx, func(ctx context.Context) error {
		request := &idRequest{result: make(chan idResult, 1)}
		r, err := batch.Submit(ctx, u.requests, request, request.result)
		if err != nil {
			return err
		}
		id = r.id
		return r.err
	})
	return id, err
}

// answer takes an id for each request in one round trip.
func (u *UserIDs) answer(group []*idRequest) {
	ctx, cancel := context.WithTimeout(u.closing, postgres.AttemptTimeout)
	defer cancel()
	rows, _ := u.pool.Query(ctx, nextIDs, len(group))
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	for i, request := range group {
		r := idResult{err: err}
		if err == nil {
			r.id = ids[i]
		}
		request.result <- r
	}
}

// reservedFor is how long a reserved id may be used. It is not longer than a create may
// take anyway. So users are created nearly in the order of their ids, and a client that
// lists the users after the last id that it knows misses no more of them than without
// reserved ids.
const reservedFor = 100 * time.Millisecond

// reservedIDs are user ids that transactions with creates have taken from the sequence
// for the next creates, one for each create. So these need no round trip for an id. A
// create that does not follow another one soon reserves no id, since it would not be
// used.
type reservedIDs struct {
	mu         sync.Mutex // guards the following fields
	ids        []int64
	expire     time.Time // of ids
	lastCreate time.Time // when the last create was planned
	taken      int64     // ids up to this one were found to be taken, wherever they come from
}

// put replaces the ids with those that a committed transaction has reserved.
func (r *reservedIDs) put(ids []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids = slices.DeleteFunc(ids, func(id int64) bool { return id <= r.taken })
	if len(ids) == 0 {
		return
	}
	r.ids, r.expire = ids, time.Now().Add(reservedFor)
}

// skip drops the ids up to last, now and whenever they are put.
func (r *reservedIDs) skip(last int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = max(r.taken, last)
	r.ids = slices.DeleteFunc(r.ids, func(id int64) bool { return id <= r.taken })
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
	if len(r.ids) == 0 || time.Now().After(r.expire) {
		return 0
	}
	id, r.ids = r.ids[0], r.ids[1:]
	return id
}

// followsCreate records a create and reports whether it follows another one soon.
func (r *reservedIDs) followsCreate() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.lastCreate
	r.lastCreate = time.Now()
	return r.lastCreate.Sub(last) < reservedFor
}

// queue reserves an id for each create of a group, if other creates are likely to
// follow. The ids may be put when the transaction is committed.
func (r *reservedIDs) queue(statements *pgx.Batch, group []*pending, ids *[]int64) {
	creates := 0
	for _, p := range group {
		if p.first().IsCreate() {
			creates++
		}
	}
	if creates > 0 && (r.followsCreate() || creates > 1) {
		statements.Queue(nextIDs, creates).Query(func(rows pgx.Rows) (err error) {
			*ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		})
	}
}
