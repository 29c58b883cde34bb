package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// User ids are drawn ahead of need, so that nobody who makes a user waits for one
// while others make some. How many at a time follows from how fast they go. Those
// that nobody has wanted for a while are thrown away: users who are new have
// greater ids than those who were so before.
const (
	fewestDraws = 16
	mostDraws   = 1024

	// soonDrawn is how soon so many are gone that more are drawn the next time.
	soonDrawn = 100 * time.Millisecond

	// longDrawn is after how long they are thrown away.
	longDrawn = 5 * time.Second
)

// NewUserID implements [actor.Store].
func (s *Store) NewUserID(ctx context.Context) (int64, error) {
	select {
	case id := <-s.ids:
		return id, nil
	default:
	}
	select {
	case s.idWanted <- struct{}{}:
	default:
	}
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
	many := fewestDraws
	for {
		begun := time.Now()
		ids, err := s.draw(many)
		switch {
		case s.ctx.Err() != nil:
			return
		case err != nil:
			s.failDraws(err)
			continue
		case s.handOut(ids):
			if time.Since(begun) < soonDrawn {
				many = min(2*many, mostDraws)
			}
			continue
		}
		many = fewestDraws
		select {
		case <-s.idWanted:
		case <-s.ctx.Done():
			return
		}
	}
}

// handOut gives ids to those who want them, and returns true when all are given,
// or are about to be. After a while it throws the rest away.
func (s *Store) handOut(ids []int64) bool {
	stale := time.NewTimer(longDrawn)
	defer stale.Stop()
	for _, id := range ids {
		select {
		case s.ids <- id:
		case <-stale.C:
			for range cap(s.ids) {
				select {
				case <-s.ids:
				default:
				}
			}
			return false
		case <-s.ctx.Done():
			return false
		}
	}
	return true
}

// draw draws so many ids, in one round trip.
func (s *Store) draw(many int) (ids []int64, err error) {
	err = s.retry(s.ctx, func(ctx context.Context) error {
		rows, _ := s.pool.Query(ctx, `WITH s AS MATERIALIZED (SELECT pg_get_serial_sequence('users', 'id')::regclass AS sequence)
			SELECT nextval(sequence) FROM s, generate_series(1, $1)`, many)
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	return ids, err
}

// failDraws tells all who wait for an id that there is none, and those who come
// within a moment.
func (s *Store) failDraws(err error) {
	s.log.Error("database", zap.String("doing", "drawing user ids"), zap.Error(err))
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
