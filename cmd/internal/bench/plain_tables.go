package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
)

// schemaOf returns the name of the schema of a run's tables. It needs no quotes.
func schemaOf(run string) string { return "glotpod_bench_" + run }

// plainTables are the tables of the plain service in the schema of this name.
type plainTables string

// create creates tables with the columns and indexes of the service's tables, and copies the
// users of the run.
func (t plainTables) create(ctx context.Context, conn *pgx.Conn, run string) error {
	_, err := conn.Exec(ctx, strings.NewReplacer("SCHEMA", string(t), "RUN", run).Replace(`
		SET statement_timeout = 0;
		CREATE TABLE SCHEMA.users (LIKE users INCLUDING INDEXES INCLUDING CONSTRAINTS INCLUDING STORAGE);
		ALTER TABLE SCHEMA.users ALTER COLUMN sequence SET DEFAULT 0;
		CREATE TABLE SCHEMA.services (LIKE services INCLUDING INDEXES INCLUDING CONSTRAINTS INCLUDING STORAGE);
		INSERT INTO SCHEMA.users SELECT * FROM users WHERE email_address LIKE 'bench-RUN-%' ORDER BY id;
		INSERT INTO SCHEMA.services SELECT s.* FROM services s JOIN SCHEMA.users u ON u.id = s.user_id ORDER BY u.id;
		ALTER TABLE SCHEMA.services ADD FOREIGN KEY (user_id) REFERENCES SCHEMA.users (id);
		CREATE SEQUENCE SCHEMA.ids;
		SELECT setval('SCHEMA.ids', max(id)) FROM SCHEMA.users;
		ANALYZE SCHEMA.users, SCHEMA.services`), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return fmt.Errorf("create the tables of the plain service: %w", err)
	}
	return nil
}

// read reads a user with its accounts in one statement; nil if there is none. Access tokens
// stay encrypted.
func (t plainTables) read(ctx context.Context, q rowQuerier, id int64, lock string) (*actor.User, error) {
	u := &actor.User{ID: id}
	var githubID, facebookID *int64
	var githubToken, facebookToken []byte
	err := q.QueryRow(ctx, `SELECT u.name, u.email_address, u.picture_url, g.sv_id, g.access_token, f.sv_id, f.access_token
		FROM `+string(t)+`.users u
		LEFT JOIN `+string(t)+`.services g ON g.user_id = u.id AND g.sv_name = 'gh'
		LEFT JOIN `+string(t)+`.services f ON f.user_id = u.id AND f.sv_name = 'fb'
		WHERE u.id = $1`+lock, id).Scan(&u.Name, &u.Email, &u.PictureURL, &githubID, &githubToken, &facebookID, &facebookToken)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if githubID != nil {
		u.GitHub = &actor.Account{ID: *githubID, AccessToken: string(githubToken)}
	}
	if facebookID != nil {
		u.Facebook = &actor.Account{ID: *facebookID, AccessToken: string(facebookToken)}
	}
	return u, err
}

// A rowQuerier is a connection or a transaction.
type rowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// update updates the columns of users that a patch has changed. The patches of a run change
// no accounts.
func (t plainTables) update(ctx context.Context, tx pgx.Tx, before, after *actor.User) error {
	statement, args := "UPDATE "+string(t)+".users SET ", []any{after.ID}
	set := func(column string, value any) {
		if len(args) > 1 {
			statement += ", "
		}
		args = append(args, value)
		statement += column + " = $" + strconv.Itoa(len(args))
	}
	if after.Name != before.Name {
		set("name", after.Name)
	}
	if after.Email != before.Email {
		set("email_address", after.Email)
	}
	if !equalValues(after.PictureURL, before.PictureURL) {
		set("picture_url", after.PictureURL)
	}
	if len(args) == 1 {
		return nil
	}
	_, err := tx.Exec(ctx, statement+" WHERE id = $1", args...)
	return err
}

func equalValues(a, b *string) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func (t plainTables) insertUser(ctx context.Context, tx pgx.Tx, u *actor.User) (id int64, err error) {
	err = tx.QueryRow(ctx, "INSERT INTO "+string(t)+".users (id, name, email_address, picture_url) VALUES (nextval('"+string(t)+".ids'), $1, $2, $3) RETURNING id",
		u.Name, u.Email, u.PictureURL).Scan(&id)
	return id, err
}

// insertAccounts inserts the account of a new user at GitHub, which the creates of a run have.
func (t plainTables) insertAccounts(ctx context.Context, tx pgx.Tx, u *actor.User) error {
	if u.GitHub == nil {
		return nil
	}
	_, err := tx.Exec(ctx, "INSERT INTO "+string(t)+".services (user_id, sv_id, sv_name, access_token) VALUES ($1, $2, 'gh', $3)",
		u.ID, u.GitHub.ID, []byte(u.GitHub.AccessToken))
	return err
}
