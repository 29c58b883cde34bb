package commit

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/userrows"
)

// SkipTaken makes sure that no more ids are returned that users have, after a create has
// found that another user has its id. The sequence may be behind the table, for example
// after a restore or in a database that was filled by logical replication. Then SkipTaken
// sets it right. Ids that were drawn before are dropped, here and, after their creates have
// failed too, in other instances.
func (u *UserIDs) SkipTaken(ctx context.Context, id int64) error {
	u.skipping.Lock()
	defer u.skipping.Unlock()
	if u.reserved.isTaken(id) {
		return nil // the id was drawn before the sequence was set
	}
	var was, is, last int64
	err := u.pool.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, u.pool, func(tx pgx.Tx) (err error) {
			was, is, last, err = raiseSequence(ctx, tx)
			return err
		})
	})
	if err != nil {
		return err
	}
	if is > was {
		u.log.Warn("sequence of user ids was behind the users, set right", zap.Int64("was", was), zap.Int64("is", is))
	}
	u.reserved.skip(max(id, last))
	return nil
}

// minFreeIDs is the number of ids that raiseSequence leaves for new users. Otherwise one
// user with the greatest id, made by another program, would prevent all creates.
const minFreeIDs = 1_000_000

// raiseSequence sets the sequence to the last user's id, unless it is there or further. It
// returns the values of the sequence and the last user's id.
func raiseSequence(ctx context.Context, tx pgx.Tx) (was, is, last int64, err error) {
	sequence, err := userrows.LockSequence(ctx, tx)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("locking the sequence: %w", err)
	}
	if was, err = userrows.LastDrawn(ctx, tx, sequence); err != nil {
		return 0, 0, 0, fmt.Errorf("reading the sequence: %w", err)
	}
	if err := tx.QueryRow(ctx, "SELECT coalesce(max(id), 0) FROM users WHERE id <= $1", actor.MaxUserID-minFreeIDs).Scan(&last); err != nil {
		return 0, 0, 0, fmt.Errorf("reading the greatest user id: %w", err)
	}
	if last <= was {
		return was, was, last, nil
	}
	if err := tx.QueryRow(ctx, "SELECT setval($1::text::regclass, $2)", sequence, last).Scan(&is); err != nil {
		return 0, 0, 0, fmt.Errorf("setting the sequence: %w", err)
	}
	return was, is, last, nil
}
