package userrows

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// A Queryer is a connection, a pool or a transaction.
type Queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Sequence returns the name of the sequence of user ids, quoted for SQL.
func Sequence(ctx context.Context, db Queryer) (name string, err error) {
	err = db.QueryRow(ctx, "SELECT pg_get_serial_sequence('users', 'id')").Scan(&name)
	return name, err
}

// LastDrawn returns the greatest id that the sequence with this name will not return any
// more.
func LastDrawn(ctx context.Context, db Queryer, sequence string) (id int64, err error) {
	err = db.QueryRow(ctx, "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM "+sequence).Scan(&id)
	return id, err
}

// CountLeft returns how many ids the sequence can still return.
func CountLeft(ctx context.Context, db Queryer) (left int64, err error) {
	sequence, err := Sequence(ctx, db)
	if err != nil {
		return 0, err
	}
	last, err := LastDrawn(ctx, db, sequence)
	if err != nil {
		return 0, err
	}
	err = db.QueryRow(ctx, "SELECT seqmax - $2 FROM pg_sequence WHERE seqrelid = $1::text::regclass", sequence, last).Scan(&left)
	return left, err
}

// LockSequence keeps all other transactions from drawing a user id until this one has
// ended, so that the sequence can be read and then set without being lowered. LockSequence returns the name
// of the sequence. ALTER SEQUENCE changes nothing here but takes the lock.
func LockSequence(ctx context.Context, tx pgx.Tx) (name string, err error) {
	if name, err = Sequence(ctx, tx); err != nil {
		return "", err
	}
	_, err = tx.Exec(ctx, "ALTER SEQUENCE "+name+" OWNED BY users.id")
	return name, err
}
