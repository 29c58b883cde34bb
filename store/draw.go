package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// maxDraws is the greatest number of user ids that are drawn in one round trip.
const maxDraws = 32

// A draw waits for a user id.
type draw struct {
	id   int64
	done chan error
}

// NewUserID implements [actor.Store].
func (s *Store) NewUserID(ctx context.Context) (id int64, err error) {
	err = s.retry(ctx, func(ctx context.Context) (err error) {
		id, err = s.draw(ctx)
		return err
	})
	if err != nil {
		return 0, s.logged(ctx, "drawing a user id", err)
	}
	return id, nil
}

func (s *Store) draw(ctx context.Context) (int64, error) {
	d := &draw{done: make(chan error, 1)}
	select {
	case s.draws <- d:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.ctx.Done():
		return 0, errClosed
	}
	select {
	case err := <-d.done:
		return d.id, err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.stopped: // perhaps without having seen d
		return 0, errClosed
	}
}

// drawGroups draws ids for those who wait, until the store closes.
func (s *Store) drawGroups() {
	gatherer[*draw]{
		in:   s.draws,
		most: maxDraws,
		do:   s.drawGroup,
		drop: func(d *draw) { d.done <- errClosed },
	}.run(s.ctx)
}

// drawGroup draws an id for each in one round trip.
func (s *Store) drawGroup(group []*draw) {
	ctx, cancel := context.WithTimeout(s.ctx, attemptTimeout)
	defer cancel()
	rows, _ := s.pool.Query(ctx, `SELECT nextval(sequence) FROM
		(SELECT pg_get_serial_sequence('users', 'id')::regclass AS sequence) AS s, generate_series(1, $1)`, len(group))
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	for i, d := range group {
		if err == nil {
			d.id = ids[i]
		}
		d.done <- err
	}
}
