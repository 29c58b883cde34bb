// Package userdata reads and erases what the database has of one user.
//
// # Design decisions and what they cost
//
//   - Erasing leaves each row of the log, with its time, operation and numbers, and takes only
//     what the change says. So positions and sequences keep their meaning for subscribers, and
//     requests are still applied once. Cost: the digest of a request stays. It does not tell what
//     it was made of.
//   - The log is erased after the user was deleted by an ordinary request. From then on no
//     transaction adds anything of the user, so one pass is enough. Why not in the transaction of the
//     delete: it would hold up its partition for as long as the log of the user is.
//   - A created user that was erased has an email, and each another one: subscribers may have an
//     index that wants it.
package userdata

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/userrows"
)

// ErrExists means that a user cannot be erased because it was not deleted.
var ErrExists = errors.New("the user exists")

// Find returns a user without access tokens, nil if there is none.
func Find(ctx context.Context, conn *pgx.Conn, user int64) (*actor.User, error) {
	var found []*userrows.Stored
	rows, _ := conn.Query(ctx, userrows.FindByID, []int64{user})
	if err := userrows.Collect(rows, &found); err != nil {
		return nil, fmt.Errorf("reading the user: %w", err)
	}
	if len(found) == 0 {
		return nil, nil
	}
	return &found[0].User, nil
}

// A LoggedRequest is a request that the log has.
type LoggedRequest struct {
	At        time.Time
	Sequence  *int64 // the number of the change among those of the user; nil: there is none
	Operation string
	Code      *string // of the refusal; nil: the request was carried out
	Caller    *string // its login; nil: not known
	Change    []byte  // in JSON, without access tokens; nil: there is none
}

// Log calls each with the requests about a user that the log has, in their order.
func Log(ctx context.Context, conn *pgx.Conn, user int64, each func(LoggedRequest) error) error {
	rows, _ := conn.Query(ctx, `SELECT at, sequence, operation, code, caller, change FROM ident_log
		WHERE user_id = $1 ORDER BY at, sequence`, user)
	defer rows.Close()
	for rows.Next() {
		r, err := pgx.RowToStructByPos[LoggedRequest](rows)
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		if err := each(r); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	return nil
}

const (
	// erased is what an erased change is.
	erased = `CASE operation WHEN 'create' THEN '{"email":"erased-' || user_id || '@invalid","id":' || user_id || ',"name":""}' ELSE '[]' END`

	// eraseSome erases some of the changes of the user $1 in the log of a day.
	// A row that another transaction changes meanwhile is found and not erased.
	eraseSome = `WITH found AS MATERIALIZED (
			SELECT ctid AS at FROM %[1]s WHERE user_id = $1 AND change IS NOT NULL AND change::text <> ` + erased + ` LIMIT $2
		), changed AS (
			UPDATE %[1]s SET change = (` + erased + `)::json WHERE ctid = ANY (ARRAY(SELECT at FROM found)) RETURNING 1)
		SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM changed)`

	// maxErased is how many changes are erased in a transaction at most: few enough that nobody
	// waits for the locks.
	maxErased = 500
)

// Erase takes everything that tells something about a user out of the log and of the notifications
// that are not sent. The user must have been deleted; otherwise the error is ErrExists. Erase
// may be interrupted and repeated. It returns how many changes it has erased, and whether
// the log has a change of the user.
func Erase(ctx context.Context, conn *pgx.Conn, user int64) (changes int64, known bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("erasing user %d: %w", user, err)
		}
	}()
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM users WHERE id = $1)", user).Scan(&known)
	if err != nil {
		return 0, false, err
	}
	if known {
		return 0, true, ErrExists
	}
	rows, _ := conn.Query(ctx, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'ident_log'::regclass ORDER BY inhrelid")
	days, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, false, err
	}
	for _, day := range days {
		n, err := eraseDay(ctx, conn, day, user)
		changes += n
		if err != nil && !changelog.IsWrongDay(err) { // or the table was dropped
			return changes, false, err
		}
	}
	if _, err := conn.Exec(ctx, "DELETE FROM ident_sealed WHERE user_id = $1", user); err != nil {
		return changes, false, err
	}
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM ident_log WHERE user_id = $1 AND code IS NULL)", user).Scan(&known)
	return changes, known, err
}

// eraseDay erases the changes of a user in the log of a day.
func eraseDay(ctx context.Context, conn *pgx.Conn, day string, user int64) (changes int64, err error) {
	for {
		var found, changed int64
		err := conn.QueryRow(ctx, fmt.Sprintf(eraseSome, day), user, maxErased).Scan(&found, &changed)
		changes += changed
		if err != nil || found == 0 {
			return changes, err
		}
	}
}
