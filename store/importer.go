package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/archive"
	"github.com/glotpod/ident/store/internal/commitstate"
	"github.com/glotpod/ident/store/internal/outbox"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/schema"
)

// MaxImportUsers is how many users one call of [Importer.Import] may be given: beyond
// it, little is gained.
const MaxImportUsers = 500

// leastIDs is how many ids an import leaves for new users, unless fewer are left
// already.
const leastIDs = 1_000_000

// ImportOptions say how users are imported.
type ImportOptions struct {
	DryRun      bool // look, and change nothing
	EmptyTokens bool // give accounts without a token an empty one, instead of refusing them
}

// An Importer brings users into a database, each whole, under the ids that they
// have, or not at all. It changes and deletes nobody. One goroutine at a time
// may use it.
//
// Instances may serve the same database meanwhile: what is unique is kept so by
// the tables' constraints, ids are set aside before they are used, and to the
// instances it is another program that writes. Nobody is notified.
type Importer struct {
	conn    *pgx.Conn
	keyring *Keyring
	options ImportOptions
	drawn   int64 // ids up to this one will not be drawn for new users, or would not after a dry run
	highest int64 // the greatest id that may be set aside
}

// OpenImporter opens a database, which has to have the schema that Migrate makes:
// else the error is a *SchemaError. Close must be called.
func OpenImporter(ctx context.Context, o Options, options ImportOptions) (*Importer, error) {
	settings := o.settings()
	settings.ApplicationName = "glotpod.ident-import/" + o.Name // not an instance: the instances notice a foreign write
	conn, err := connect(ctx, settings)
	if err != nil {
		return nil, err
	}
	im := &Importer{conn: conn, keyring: o.Keyring, options: options}
	if err := im.readDrawn(ctx); err != nil {
		im.Close()
		return nil, err
	}
	im.highest = max(im.drawn, actor.MaxUserID-leastIDs)
	return im, nil
}

// readDrawn reads up to which id none will be drawn for a new user any more.
func (im *Importer) readDrawn(ctx context.Context) error {
	sequence, err := usersSequence(ctx, im.conn)
	if err == nil {
		err = im.conn.QueryRow(ctx, "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM "+sequence).Scan(&im.drawn)
	}
	if err != nil {
		return fmt.Errorf("reading which user ids are set aside: %w", err)
	}
	return nil
}

// usersSequence names the sequence that user ids are drawn from, quoted as SQL
// takes it.
func usersSequence(ctx context.Context, db schema.Queryer) (name string, err error) {
	err = db.QueryRow(ctx, "SELECT pg_get_serial_sequence('users', 'id')").Scan(&name)
	return name, err
}

// Close closes the connection.
func (im *Importer) Close() { postgres.CloseConn(im.conn) }

// Import imports users in one transaction, and says what became of each. On an error,
// none is imported, or perhaps, where the connection was lost, all that could be.
func (im *Importer) Import(ctx context.Context, users []archive.User) (fates []ImportResult, err error) {
	err = im.again(ctx, func(ctx context.Context) (err error) {
		fates, err = im.try(ctx, users)
		return err
	})
	return fates, err
}

// again calls try until no other transaction stands in its way, or commitstate.Patience is
// over.
func (im *Importer) again(ctx context.Context, try func(ctx context.Context) error) error {
	for begun, pause := time.Now(), 10*time.Millisecond; ; pause = min(2*pause, time.Second) {
		attempt, cancel := context.WithTimeout(ctx, pageTimeout)
		err := try(attempt)
		cancel()
		if err == nil || postgres.Classify(err) != postgres.Contended || time.Since(begun) > commitstate.Patience {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

func (im *Importer) try(ctx context.Context, users []archive.User) ([]ImportResult, error) {
	b, err := im.look(ctx, users)
	if err != nil {
		return nil, fmt.Errorf("looking for users: %w", err)
	}
	var plan plan
	last := int64(0)
	for i := range users {
		fate, err := b.decide(&users[i], &plan)
		if err != nil {
			return nil, err
		}
		b.fates = append(b.fates, fate)
		if fate.Kind == Imported {
			last = max(last, users[i].ID)
		}
	}
	if len(plan.insertedUsers.ids) == 0 {
		return b.fates, nil
	}
	if err := im.setAside(ctx, last); err != nil || im.options.DryRun {
		return b.fates, err
	}
	err = pgx.BeginFunc(ctx, im.conn, func(tx pgx.Tx) error {
		batch := new(pgx.Batch)
		plan.queue(batch, new(outbox.Removal), "true")
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return nil, fmt.Errorf("writing users: %w", err)
	}
	return b.fates, nil
}

// ReserveIDs sees to it that no id up to last is drawn for a new user from now on. For
// the users who are imported, Put does so too; but an id that was drawn before may
// be that of a user of the next call. It is refused where fewer than a million ids
// would be left.
func (im *Importer) ReserveIDs(ctx context.Context, last int64) error {
	if last > im.highest {
		return fmt.Errorf("setting user ids aside up to %d: less than %d would be left for new users; if that is meant, set the sequence first: "+
			"SELECT setval(pg_get_serial_sequence('users', 'id'), %d)", last, leastIDs, last)
	}
	return im.again(ctx, func(ctx context.Context) error { return im.setAside(ctx, last) })
}

// ReservedIDs is the greatest id that was drawn for a new user or set aside, as far as this
// Importer knows; in a dry run, or would be.
func (im *Importer) ReservedIDs() int64 { return im.drawn }

// setAside raises the sequence, which must never go down: whoever draws waits while
// it is looked at and set. ALTER SEQUENCE is there for its lock, and changes
// nothing.
func (im *Importer) setAside(ctx context.Context, last int64) error {
	if last <= im.drawn {
		return nil
	}
	if im.options.DryRun {
		im.drawn = last
		return nil
	}
	err := pgx.BeginFunc(ctx, im.conn, func(tx pgx.Tx) error {
		sequence, err := usersSequence(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "ALTER SEQUENCE "+sequence+" OWNED BY users.id"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT CASE WHEN last_value < $1 OR NOT is_called THEN setval($2::text::regclass, greatest($1, last_value))
			ELSE last_value END FROM `+sequence, last, sequence).Scan(&im.drawn)
	})
	if err != nil {
		return fmt.Errorf("setting user ids aside: %w", err)
	}
	return nil
}

// An importing is the users of one try, and those who may stand in their way.
type importing struct {
	*Importer
	stored map[int64]*storedUser // by id, and those who have an email or an account that is wanted
	owners keyOwners
	fates  []ImportResult
}

func (im *Importer) look(ctx context.Context, users []archive.User) (*importing, error) {
	var ids []int64
	var emails []string
	accounts := make(map[string][]int64) // by service
	for i := range users {
		ids = append(ids, users[i].ID)
		emails = append(emails, users[i].Email)
		for _, service := range services {
			if a := archivedAccount(&users[i], service); a != nil {
				accounts[service] = append(accounts[service], a.ID)
			}
		}
	}
	var found []*storedUser
	read := func(rows pgx.Rows) error { return collectUsers(rows, &found) }
	batch := new(pgx.Batch)
	batch.Queue(findByID, ids).Query(read)
	batch.Queue(findByEmail, emails).Query(read)
	for service, ids := range accounts {
		batch.Queue(findByService, ids, service).Query(read)
	}
	if err := im.conn.SendBatch(ctx, batch).Close(); err != nil {
		return nil, err
	}
	b := &importing{Importer: im, stored: make(map[int64]*storedUser, len(found))}
	for _, u := range found {
		b.stored[u.user.ID] = u
		b.owners.add(&u.user)
	}
	return b, nil
}

func archivedAccount(u *archive.User, service string) *archive.Account {
	if service == "gh" {
		return u.GitHub
	}
	return u.Facebook
}
