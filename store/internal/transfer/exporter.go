// Package transfer exports all users of a database, and imports users into one.
package transfer

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/store/archive"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/schema"
)

const (
	// These bound an exported page. A page has at least one user.
	exportUsers = 1000
	exportBytes = 4 << 20

	// pageTimeout bounds reading or writing a page, by a database that has nothing of it
	// in memory.
	pageTimeout = time.Minute
)

// An Exporter reads all users of a database, page by page. One goroutine at a time may
// use it.
//
// Each page shows the database at one moment, and the next page at a later one: a
// snapshot of the whole export would keep the database from vacuuming for hours. So each
// user is exported once, as it was at some moment of the export. Two users may be
// shown in a combination of states that never existed.
type Exporter struct {
	conn       *pgx.Conn
	withTokens bool
}

// OpenExporter opens a database. If its schema is not the current one, the error is a
// *schema.Error. With archive.Omit the exporter does not read access tokens. Close must
// be called.
func OpenExporter(ctx context.Context, database postgres.Settings, tokens archive.Tokens) (*Exporter, error) {
	conn, err := connect(ctx, database)
	if err != nil {
		return nil, err
	}
	return &Exporter{conn, tokens == archive.Sealed}, nil
}

// connect opens one connection to a database with a schema that is up to date.
func connect(ctx context.Context, settings postgres.Settings) (*pgx.Conn, error) {
	conn, err := settings.ConnectForBulk(ctx, pageTimeout)
	if err != nil {
		return nil, err
	}
	if _, err := schema.Check(ctx, conn); err != nil {
		postgres.CloseConn(conn)
		return nil, err
	}
	return conn, nil
}

// Close closes the connection.
func (e *Exporter) Close() { postgres.CloseConn(e.conn) }

// LastID returns the greatest id of all users, 0 if there are none.
func (e *Exporter) LastID(ctx context.Context) (id int64, err error) {
	if err := e.conn.QueryRow(ctx, "SELECT coalesce((SELECT id FROM users ORDER BY id DESC LIMIT 1), 0)").Scan(&id); err != nil {
		return 0, fmt.Errorf("reading the greatest user id: %w", err)
	}
	return id, nil
}

// Page returns the next users, by id, with ids greater than afterID. It returns none at the
// end.
func (e *Exporter) Page(ctx context.Context, afterID int64) ([]archive.User, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	tokenOf := func(alias string) string {
		if e.withTokens {
			return alias + ".access_token"
		}
		return "NULL::bytea"
	}
	github, facebook := tokenOf("g"), tokenOf("f")
	// Because of LIMIT 1 the planner looks for accounts by key, user by user, whatever the
	// statistics of the tables are.
	rows, _ := e.conn.Query(ctx, `SELECT id, name, email_address, picture_url, gh, gh_token, fb, fb_token, sequence FROM (
			SELECT u.id, u.name, u.email_address, u.picture_url, u.sequence, g.sv_id AS gh, `+github+` AS gh_token, f.sv_id AS fb, `+facebook+` AS fb_token,
				row_number() OVER w AS position,
				sum(octet_length(u.name) + coalesce(octet_length(u.picture_url), 0) +
					coalesce(octet_length(`+github+`), 0) + coalesce(octet_length(`+facebook+`), 0)) OVER w AS bytes
			FROM users u
			LEFT JOIN LATERAL (SELECT * FROM services WHERE user_id = u.id AND sv_name::text = 'gh' LIMIT 1) AS g ON true
			LEFT JOIN LATERAL (SELECT * FROM services WHERE user_id = u.id AND sv_name::text = 'fb' LIMIT 1) AS f ON true
			WHERE u.id > $1 WINDOW w AS (ORDER BY u.id ROWS UNBOUNDED PRECEDING) ORDER BY u.id LIMIT $2) AS page
		WHERE position = 1 OR bytes <= $3 ORDER BY id`, afterID, exportUsers, exportBytes)
	users, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (archive.User, error) {
		var u archive.User
		var github, facebook *int64
		var githubToken, facebookToken []byte
		err := row.Scan(&u.ID, &u.Name, &u.Email, &u.PictureURL, &github, &githubToken, &facebook, &facebookToken, &u.Sequence)
		u.GitHub, u.Facebook = archiveAccount(github, githubToken), archiveAccount(facebook, facebookToken)
		return u, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading users after %d: %w", afterID, err)
	}
	return users, nil
}

func archiveAccount(id *int64, token []byte) *archive.Account {
	if id == nil {
		return nil
	}
	return &archive.Account{ID: *id, Token: string(token)}
}
