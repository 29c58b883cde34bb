package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// TryLock takes an advisory lock of the session, unless another session has it: then
// TryLock returns nil for unlock. The lock belongs to the session and not to a
// transaction, because a transaction must not idle. If unlock fails, it closes the
// connection, which releases the lock.
func TryLock(ctx context.Context, conn *pgx.Conn, key int64, log *zap.Logger) (unlock func(), err error) {
	var locked bool
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", key).Scan(&locked); err != nil || !locked {
		return nil, err
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", key); err != nil {
			log.Warn("advisory unlock failed, connection closed", zap.Int64("lock", key), zap.Error(errors.Join(err, conn.Close(ctx))))
		}
	}, nil
}
