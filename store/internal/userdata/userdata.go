// Package userdata reads and erases what the database has of one user.
//
// # Design decisions and what they cost
//
//   - Erasing leaves each row of the log, with its time, operation and numbers, and takes only
//     what the change says. So positions and sequences keep their meaning for subscribers.
//   - The digest of a request stays for a day, as does the message of a refusal: a replay needs
//     them. Cost: the digest has no key, so it confirms a guess of all arguments, and the message
//     may quote some. Erase says how many rows are as young, and is to be repeated then. A replay
//     that comes even later may be refused as another request.
//   - Statements name the table of a day: one on the parent table would lock the tables and indexes
//     of all days, more than the server may have locks for. Cost: what is read of different days
//     is not of the same moment.
//   - The log is erased after the user was deleted by an ordinary request. From then on no
//     transaction adds anything of the user, so one pass is enough. Why not in the transaction of the
//     delete: it would hold up its partition for as long as the log of the user is.
//   - A created user that was erased has an email, and each another one: subscribers may have an
//     index that wants it. Cost: a patch that gave up an email is empty, so a subscriber may see
//     another user take that email before the delete.
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
	days, err := daysOf(ctx, conn)
	if err != nil {
		return err
	}
	for _, day := range days {
		if err := logOf(ctx, conn, day, user, each); err != nil {
			return err
		}
	}
	return nil
}

// logOf calls each with the requests about a user in the log of a day.
func logOf(ctx context.Context, conn *pgx.Conn, day string, user int64, each func(LoggedRequest) error) error {
	rows, _ := conn.Query(ctx, `SELECT at, sequence, operation, code, caller, change FROM `+day+`
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
	if err := rows.Err(); err != nil && !changelog.IsWrongDay(err) { // or the table was dropped
		return fmt.Errorf("reading the log: %w", err)
	}
	return nil
}

// daysOf returns the tables of the log, in the order of their days.
func daysOf(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, _ := conn.Query(ctx, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'ident_log'::regclass ORDER BY 1")
	days, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the days of the log: %w", err)
	}
	return days, nil
}

const (
	// erased is what an erased change is.
	erased = `CASE operation WHEN 'create' THEN '{"email":"erased-' || user_id || '@invalid","id":' || user_id || ',"name":""}' ELSE '[]' END`

	// isReplayable means that a replay may find the row.
	isReplayable = "at >= now() - interval '24 hours'"

	// eraseSome erases some of the rows of the user $1 in the log of a day, none if the user
	// exists. A row that another transaction changes meanwhile is found and not erased.
	eraseSome = `WITH found AS MATERIALIZED (
			SELECT ctid AS at FROM %[1]s WHERE user_id = $1 AND NOT EXISTS (SELECT FROM users WHERE id = $1)
				AND (change IS NOT NULL AND change::text <> ` + erased + ` OR NOT ` + isReplayable + ` AND (digest <> 0 OR message <> '')) LIMIT $2
		), changed AS (
			UPDATE %[1]s SET change = CASE WHEN change IS NOT NULL THEN (` + erased + `)::json END,
				digest = CASE WHEN ` + isReplayable + ` THEN digest ELSE 0 END,
				message = CASE WHEN ` + isReplayable + ` OR message IS NULL THEN message ELSE '' END
			WHERE ctid = ANY (ARRAY(SELECT at FROM found)) RETURNING 1)
		SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM changed)`

	// countLeft counts the rows of the user $1 in the log of a day that have a digest or a message,
	// and says whether there is a change. A delete tells nothing about the user.
	countLeft = `SELECT count(*) FILTER (WHERE operation <> 'delete' AND (digest <> 0 OR message <> '')), coalesce(bool_or(code IS NULL), false)
		FROM %s WHERE user_id = $1`

	// maxErased is how many rows are erased in a transaction at most: few enough that nobody
	// waits for the locks.
	maxErased = 500
)

// An Erasure says what Erase has done.
type Erasure struct {
	Rows  int64 // of the log that were erased
	Left  int64 // rows of the last day, whose digest and message stay
	Known bool  // the log has a change of the user
}

// Erase takes everything that tells something about a user out of the log and of the notifications
// that are not sent, except what the last day's replays need. The user must have been deleted;
// otherwise the error is ErrExists. Erase may be interrupted and repeated.
func Erase(ctx context.Context, conn *pgx.Conn, user int64) (e Erasure, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("erasing user %d: %w", user, err)
		}
	}()
	if err := checkDeleted(ctx, conn, user); err != nil {
		return e, err
	}
	days, err := daysOf(ctx, conn)
	if err != nil {
		return e, err
	}
	for _, day := range days {
		if err := e.eraseDay(ctx, conn, day, user); err != nil && !changelog.IsWrongDay(err) { // or the table was dropped
			return e, err
		}
	}
	if _, err := conn.Exec(ctx, "DELETE FROM ident_sealed WHERE user_id = $1 AND NOT EXISTS (SELECT FROM users WHERE id = $1)", user); err != nil {
		return e, err
	}
	return e, checkDeleted(ctx, conn, user) // it may have been imported meanwhile
}

func checkDeleted(ctx context.Context, conn *pgx.Conn, user int64) error {
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM users WHERE id = $1)", user).Scan(&exists); err != nil {
		return err
	}
	if exists {
		return ErrExists
	}
	return nil
}

// eraseDay erases the rows of a user in the log of a day.
func (e *Erasure) eraseDay(ctx context.Context, conn *pgx.Conn, day string, user int64) error {
	for {
		var found, changed int64
		err := conn.QueryRow(ctx, fmt.Sprintf(eraseSome, day), user, maxErased).Scan(&found, &changed)
		e.Rows += changed
		if err != nil {
			return err
		}
		if found == 0 {
			break
		}
	}
	var left int64
	var known bool
	err := conn.QueryRow(ctx, fmt.Sprintf(countLeft, day), user).Scan(&left, &known)
	e.Left += left
	e.Known = e.Known || known
	return err
}
