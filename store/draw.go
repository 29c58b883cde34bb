package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// User ids are drawn ahead of need, so that nobody who makes a user waits for one.
// How many at a time follows from how fast they go. Those that are left when the
// store closes are nobody's ever.
const (
	fewestDraws = 16
	mostDraws   = 1024

	// Where so many are gone sooner than that, more are drawn at a time, and where
	// they last longer, fewer.
	soonDrawn = 100 * time.Millisecond
	longDrawn = 10 * time.Second
)

// NewUserID implements [actor.Store].
func (s *Store) NewUserID(ctx context.Context) (int64, error) {
	select {
	case id := <-s.ids:
		return id, nil
	case err := <-s.undrawn:
		return 0, err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.ctx.Done():
		return 0, errClosed
	}
}

// drawIDs draws ids until the store closes.
func (s *Store) drawIDs() {
	for many := fewestDraws; s.ctx.Err() == nil; {
		begun := time.Now()
		ids, err := s.draw(many)
		if err != nil {
			s.failDraws(err)
			continue
		}
		for _, id := range ids {
			select {
			case s.ids <- id:
			case <-s.ctx.Done():
				return
			}
		}
		switch lasted := time.Since(begun); {
		case lasted < soonDrawn:
			many = min(2*many, mostDraws)
		case lasted > longDrawn:
			many = max(many/2, fewestDraws)
		}
	}
}

// draw draws so many ids, in one round trip.
func (s *Store) draw(many int) (ids []int64, err error) {
	err = s.retry(s.ctx, func(ctx context.Context) error {
		rows, _ := s.pool.Query(ctx, `SELECT nextval(sequence) FROM
			(SELECT pg_get_serial_sequence('users', 'id')::regclass AS sequence) AS s, generate_series(1, $1)`, many)
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	return ids, err
}

// failDraws tells all who wait for an id that there is none, and those who come
// within a moment.
func (s *Store) failDraws(err error) {
	if s.ctx.Err() == nil {
		s.log.Error("database", zap.String("doing", "drawing user ids"), zap.Error(err))
	}
	moment := time.NewTimer(time.Second)
	defer moment.Stop()
	for {
		select {
		case s.undrawn <- err:
		case <-moment.C:
			return
		case <-s.ctx.Done():
			return
		}
	}
}
