package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

const (
	slotCheckEvery = 10 * time.Minute
	slotLockWait   = "200ms" // how long the lock on a slot may hold up commits
)

// emptySlots forgets the requests whose day is over.
func (s *Store) emptySlots() {
	ticker := time.NewTicker(slotCheckEvery)
	defer ticker.Stop()
	for {
		ctx, cancel := context.WithTimeout(s.ctx, attemptTimeout)
		if err := s.emptyNextSlot(ctx); err != nil && s.ctx.Err() == nil {
			s.log.Warn("old requests not removed, trying again", zap.Duration("in", slotCheckEvery), zap.Error(err))
		}
		cancel()
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// emptyNextSlot empties the slot that tomorrow will write to. What it holds is
// two days old and more. In the first and the last hour of a day nothing is
// done, so that no transaction can see another day than this one.
func (s *Store) emptyNextSlot(ctx context.Context) error {
	var midnight bool
	var slot int
	err := s.pool.QueryRow(ctx, `SELECT ident_slot(now() - interval '1 hour') <> ident_slot(now() + interval '1 hour'),
		ident_slot(now() + interval '1 day')`).Scan(&midnight, &slot)
	if err != nil {
		return fmt.Errorf("reading the day: %w", err)
	}
	if midnight {
		return nil
	}
	table := fmt.Sprintf("ident_requests_%d", slot)
	var used bool
	if err := s.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+table+")").Scan(&used); err != nil {
		return fmt.Errorf("looking into %s: %w", table, err)
	}
	if !used {
		return nil
	}
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+slotLockWait+"'; TRUNCATE "+table); err != nil {
			return fmt.Errorf("emptying %s: %w", table, err)
		}
		return nil
	})
}
