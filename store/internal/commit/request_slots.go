package commit

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/store/internal/postgres"
)

// slotLockWait bounds how long locking a slot may delay commits.
const slotLockWait = "200ms"

// EmptyNextSlot empties the slot of ident_requests for the requests of tomorrow. Its rows
// are at least two days old. In the first and the last hour of a day it does nothing, so
// that no transaction can see a different day.
func EmptyNextSlot(ctx context.Context, pool *postgres.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, postgres.AttemptTimeout)
	defer cancel()
	var midnight bool
	var slot int
	err := pool.QueryRow(ctx, `SELECT ident_slot(now() - interval '1 hour') <> ident_slot(now() + interval '1 hour'),
		ident_slot(now() + interval '1 day')`).Scan(&midnight, &slot)
	if err != nil {
		return fmt.Errorf("reading the day: %w", err)
	}
	if midnight {
		return nil
	}
	table := fmt.Sprintf("ident_requests_%d", slot)
	var used bool
	if err := pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+table+")").Scan(&used); err != nil {
		return fmt.Errorf("querying %s: %w", table, err)
	}
	if !used {
		return nil
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+slotLockWait+"'; TRUNCATE "+table); err != nil {
			return fmt.Errorf("emptying %s: %w", table, err)
		}
		return nil
	})
}
