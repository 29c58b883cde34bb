package commit

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/userrows"
)

// SkipTaken keeps ids that users have from being returned, up to maxRaise ids further on.
// It is called after a create has found that another user has its id. The sequence may be
// behind the table, for example after a restore or in a database that was filled by logical
// replication. Then SkipTaken sets it right. Ids that were drawn before are dropped, here
// and, after their creates have failed too, in other instances.
func (u *UserIDs) SkipTaken(ctx context.Context, id int64) error {
	select {
	case u.skipping <- struct{}{}:
		defer func() { <-u.skipping }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if u.reserved.isTaken(id) {
		return nil // the id was drawn before the sequence was set
	}
	var r raise
	err := u.pool.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, u.pool, func(tx pgx.Tx) (err error) {
			r, err = raiseSequence(ctx, tx)
			return err
		})
	})
	if err != nil {
		return err
	}
	switch fields := []zap.Field{zap.Int64("was", r.was), zap.Int64("is", r.is), zap.Int64("greatest", r.greatest)}; {
	case r.is == r.was:
	case r.greatest > r.is:
		u.log.Warn("sequence of user ids was behind the users, not set to the greatest id, which is too far", fields...)
	default:
		u.log.Warn("sequence of user ids was behind the users, set right", fields...)
	}
	u.reserved.skip(max(id, r.last))
	return nil
}

const (
	// minFreeIDs is the number of ids that raiseSequence leaves for new users. Otherwise one
	// user with the greatest id, made by another program, would prevent all creates.
	minFreeIDs = 1_000_000

	// maxRaise is how far raiseSequence moves the sequence. Otherwise one user with a great
	// id, made by another program, would use up all ids below. If there are more users, the
	// next creates move the sequence on.
	maxRaise = 10_000_000
)

// A raise is what raiseSequence has done.
type raise struct {
	was, is  int64 // last ids that were drawn
	last     int64 // greatest user id that the sequence may be set to
	greatest int64 // of all users
}

// raiseSequence sets the sequence to the last user's id within maxRaise, unless it is there
// or further. The two queries about users read one entry of the index each.
func raiseSequence(ctx context.Context, tx pgx.Tx) (r raise, err error) {
	sequence, err := userrows.LockSequence(ctx, tx)
	if err != nil {
		return raise{}, fmt.Errorf("locking the sequence: %w", err)
	}
	if r.was, err = userrows.LastDrawn(ctx, tx, sequence); err != nil {
		return raise{}, fmt.Errorf("reading the sequence: %w", err)
	}
	err = tx.QueryRow(ctx, `SELECT coalesce((SELECT max(id) FROM users WHERE id <= $1), 0), coalesce((SELECT max(id) FROM users), 0)`,
		min(r.was, actor.MaxUserID-minFreeIDs-maxRaise)+maxRaise).Scan(&r.last, &r.greatest)
	if err != nil {
		return raise{}, fmt.Errorf("reading the greatest user id: %w", err)
	}
	if r.is = r.was; r.last <= r.was {
		return r, nil
	}
	if err := tx.QueryRow(ctx, "SELECT setval($1::text::regclass, $2)", sequence, r.last).Scan(&r.is); err != nil {
		return raise{}, fmt.Errorf("setting the sequence: %w", err)
	}
	return r, nil
}
