package store

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/store/internal/batch"
	"github.com/glotpod/ident/store/internal/postgres"
)

// drawIDs draws $1 user ids.
const drawIDs = `SELECT nextval(sequence) FROM
	(SELECT pg_get_serial_sequence('users', 'id')::regclass AS sequence) AS s, generate_series(1, $1)`

// maxDraws is the greatest number of user ids that are drawn in one round trip.
const maxDraws = 32

// A draw waits for a user id.
type draw struct{ result chan drawResult }

type drawResult struct {
	id  int64
	err error
}

// spareFor is how long an id that was drawn ahead is good for. It is not longer than a
// create may take anyway: users are made nearly in the order of their ids, so that
// who reads the list of them on from the last one misses no more than otherwise.
const spareFor = 100 * time.Millisecond

// spares are ids that the transactions of creates have drawn along, one for each, so
// that the creates which follow need no round trip of their own for that. None is drawn
// by a create that does not follow another one: it would be left over.
type spares struct {
	mu      sync.Mutex // guards the following fields
	ids     []int64
	until   time.Time // they are good
	created time.Time // when the last create was begun
}

// put adds ids whose drawing will last: it was committed.
func (s *spares) put(ids []int64) {
	if len(ids) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids, s.until = ids, time.Now().Add(spareFor)
}

// take returns an id, 0 if there is none.
func (s *spares) take() (id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ids) == 0 || time.Now().After(s.until) {
		return 0
	}
	id, s.ids = s.ids[0], s.ids[1:]
	return id
}

// follow notes that something is created, and says whether that follows another create.
func (s *spares) follow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.created
	s.created = time.Now()
	return s.created.Sub(last) < spareFor
}

// queue draws an id for each create of a group, if others may follow.
func (s *spares) queue(statements *pgx.Batch, writes []*pending, ids *[]int64) {
	creates := 0
	for _, p := range writes {
		if p.first().IsCreate() {
			creates++
		}
	}
	if creates > 0 && (s.follow() || creates > 1) {
		statements.Queue(drawIDs, creates).Query(func(rows pgx.Rows) (err error) {
			*ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		})
	}
}

// ReservedUserID implements [actor.Store].
func (s *Store) ReservedUserID() int64 { return s.spares.take() }

// NewUserID implements [actor.Store].
func (s *Store) NewUserID(ctx context.Context) (id int64, err error) {
	err = s.pool.Retry(ctx, func(ctx context.Context) (err error) {
		id, err = s.draw(ctx)
		return err
	})
	if err != nil {
		return 0, s.logged(ctx, "drawing a user id", err)
	}
	return id, nil
}

func (s *Store) draw(ctx context.Context) (int64, error) {
	d := &draw{result: make(chan drawResult, 1)}
	r, err := batch.Submit(ctx, s.draws, d, d.result)
	if err != nil {
		return 0, err
	}
	return r.id, r.err
}

func (s *Store) batchDraws() *batch.Batcher[*draw] {
	return batch.New(batch.Config[*draw]{
		MaxItems: maxDraws,
		Process:  s.drawGroup,
		Discard:  func(d *draw) { d.result <- drawResult{err: batch.ErrClosed} },
		Closing:  s.ctx.Done(),
		Stopped:  s.stopped,
	})
}

// drawGroup draws an id for each in one round trip.
func (s *Store) drawGroup(group []*draw) {
	ctx, cancel := context.WithTimeout(s.ctx, postgres.AttemptTimeout)
	defer cancel()
	rows, _ := s.pool.Query(ctx, drawIDs, len(group))
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	for i, d := range group {
		r := drawResult{err: err}
		if err == nil {
			r.id = ids[i]
		}
		d.result <- r
	}
}
