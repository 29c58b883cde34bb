package userrows

import (
	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
)

// Users are rows of the table users, column by column.
type Users struct {
	ids       []int64
	names     []string
	emails    []string
	pictures  []*string
	sequences []int64
}

// Add adds the row of u.
func (c *Users) Add(u *actor.User) {
	c.ids = append(c.ids, u.ID)
	c.names = append(c.names, u.Name)
	c.emails = append(c.emails, u.Email)
	c.pictures = append(c.pictures, u.PictureURL)
	c.sequences = append(c.sequences, u.Version.Sequence)
}

// Len returns how many rows there are.
func (c *Users) Len() int { return len(c.ids) }

// QueueInsert inserts the rows, if there are any and an SQL condition holds.
func (c *Users) QueueInsert(batch *pgx.Batch, condition string) {
	if len(c.ids) > 0 {
		batch.Queue(`INSERT INTO users (id, name, email_address, picture_url, sequence)
			SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[]) WHERE `+condition,
			c.ids, c.names, c.emails, c.pictures, c.sequences)
	}
}

// QueueUpdate updates the rows with these ids, if there are any and an SQL condition holds.
func (c *Users) QueueUpdate(batch *pgx.Batch, condition string) {
	if len(c.ids) > 0 {
		c.queueUpdate(batch, condition)
	}
}

// QueueUpdateNone adds the statement of QueueUpdate, which updates nothing here, to a batch
// that prepares statements.
func QueueUpdateNone(batch *pgx.Batch, condition string) {
	(&Users{ids: []int64{}}).queueUpdate(batch, condition)
}

// queueUpdate finds the rows by their ids, and then for each row its values in the arrays. A
// join of both could be planned as a search of all users for each of the values.
func (c *Users) queueUpdate(batch *pgx.Batch, condition string) {
	batch.Queue(`UPDATE users SET name = ($2::text[])[array_position($1, id)],
			email_address = ($3::text[])[array_position($1, id)],
			picture_url = ($4::text[])[array_position($1, id)],
			sequence = ($5::bigint[])[array_position($1, id)]
		WHERE id = ANY($1::bigint[]) AND `+condition, c.ids, c.names, c.emails, c.pictures, c.sequences)
}

// Accounts are rows of the table services, column by column.
type Accounts struct {
	users    []int64
	services []string
	ids      []int64
	tokens   [][]byte
}

// Add adds the row of a user's account, with its encrypted access token.
func (c *Accounts) Add(user int64, service string, id int64, token []byte) {
	c.users = append(c.users, user)
	c.services = append(c.services, service)
	c.ids = append(c.ids, id)
	c.tokens = append(c.tokens, token)
}

// QueueUpsert inserts the rows or replaces those of the same user and service, if there are
// any and an SQL condition holds.
func (c *Accounts) QueueUpsert(batch *pgx.Batch, condition string) {
	if len(c.users) > 0 {
		batch.Queue(`INSERT INTO services (user_id, sv_name, sv_id, access_token)
			SELECT * FROM unnest($1::bigint[], $2::text[]::svc_type[], $3::bigint[], $4::bytea[]) WHERE `+condition+`
			ON CONFLICT (sv_name, user_id) DO UPDATE
			SET sv_id = excluded.sv_id, access_token = excluded.access_token`, c.users, c.services, c.ids, c.tokens)
	}
}
