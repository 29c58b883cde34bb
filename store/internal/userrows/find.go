package userrows

import (
	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
)

// These statements find users by one key each. A user has a row for each account, or one
// row if it has none.
const (
	findUsers = `SELECT u.id, u.name, u.email_address, u.picture_url, u.xmin, u.sequence, s.sv_name::text, s.sv_id, s.access_token, s.version
		FROM users u LEFT JOIN LATERAL (
			SELECT sv_name, sv_id, access_token, services.xmin AS version FROM services WHERE user_id = u.id OFFSET 0) AS s ON true
		WHERE `
	FindByID      = findUsers + "u.id = ANY($1::bigint[])"
	FindByEmail   = findUsers + "u.email_address = ANY($1::text[])"
	FindByService = findUsers + `u.id = ANY(ARRAY(
		SELECT user_id FROM services WHERE sv_id = ANY($1::bigint[]) AND sv_name::text = $2))`
)

// Collect appends the users in the rows of one of the statements above.
func Collect(rows pgx.Rows, users *[]*Stored) error {
	byID := make(map[int64]*Stored)
	for rows.Next() {
		var row actor.User
		var service *string
		var id *int64
		var token []byte
		var version *uint32
		if err := rows.Scan(&row.ID, &row.Name, &row.Email, &row.PictureURL, &row.Version.Rows[0], &row.Version.Sequence, &service, &id, &token, &version); err != nil {
			return err
		}
		u := byID[row.ID]
		if u == nil {
			u = &Stored{User: row}
			byID[row.ID] = u
			*users = append(*users, u)
		}
		if service != nil {
			u.SetAccount(*service, *id, token, *version)
		}
	}
	return rows.Err()
}
