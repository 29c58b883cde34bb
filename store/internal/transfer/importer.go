package transfer

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/store/archive"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/userrows"
)

// MaxUsers bounds the users of one call of [Importer.Import]. More gain little.
const MaxUsers = 500

const (
	// minFreeIDs is the number of ids that an import leaves for new users, unless fewer are
	// left already.
	minFreeIDs = 1_000_000

	// importRetryTimeout bounds the time in which an import is repeated because other
	// transactions are in its way.
	importRetryTimeout = 20 * time.Second
)

// ImportOptions say how users are imported.
type ImportOptions struct {
	DryRun      bool // read only
	EmptyTokens bool // import accounts without a token with an empty one, instead of refusing them
}

// An Importer adds users to a database under the ids that they have. It imports a user
// completely or not at all, and never changes or deletes a user. One goroutine at a time
// may use it.
//
// Instances may serve the same database meanwhile. The constraints of the tables keep
// unique keys unique, and ids are reserved before they are used. The instances treat the
// import as foreign writes. It sends no notifications.
type Importer struct {
	conn     *pgx.Conn
	keyring  *keyring.Keyring
	options  ImportOptions
	drawn    int64 // users with greater ids were not in the database before
	reserved int64 // each new user gets a greater id; in a dry run, it would
	maxID    int64 // the greatest id that may be reserved
}

// OpenImporter opens a database. The application name must not be that of an instance: the
// instances must notice a foreign write. If the schema is not the current one, the error is
// a *schema.Error. Close must be called.
func OpenImporter(ctx context.Context, database postgres.Settings, keys *keyring.Keyring, options ImportOptions) (*Importer, error) {
	conn, err := connect(ctx, database)
	if err != nil {
		return nil, err
	}
	im := &Importer{conn: conn, keyring: keys, options: options}
	if err := im.readReserved(ctx); err != nil {
		im.Close()
		return nil, err
	}
	im.drawn, im.maxID = im.reserved, max(im.reserved, actor.MaxUserID-minFreeIDs)
	return im, nil
}

// readReserved reads the greatest id that no new user will get.
func (im *Importer) readReserved(ctx context.Context) error {
	sequence, err := userrows.Sequence(ctx, im.conn)
	if err == nil {
		im.reserved, err = userrows.LastDrawn(ctx, im.conn, sequence)
	}
	if err != nil {
		return fmt.Errorf("reading which user ids are reserved: %w", err)
	}
	return nil
}

// Close closes the connection.
func (im *Importer) Close() { postgres.CloseConn(im.conn) }

// Import imports users in one transaction and returns the result of each. After an error
// it has imported no user, or, if the connection was lost, perhaps all that it could.
func (im *Importer) Import(ctx context.Context, users []archive.User) (results []ImportResult, err error) {
	err = im.retry(ctx, func(ctx context.Context) (err error) {
		results, err = im.try(ctx, users)
		return err
	})
	return results, err
}

// retry calls try until no other transaction is in its way, or for importRetryTimeout.
func (im *Importer) retry(ctx context.Context, try func(ctx context.Context) error) error {
	backoff := wait.Backoff{First: 10 * time.Millisecond, Longest: time.Second}
	for begun := time.Now(); ; {
		attempt, cancel := context.WithTimeout(ctx, pageTimeout)
		err := try(attempt)
		cancel()
		if err == nil || postgres.Classify(err) != postgres.Contended || time.Since(begun) > importRetryTimeout || backoff.Wait(ctx) != nil {
			return err
		}
	}
}

func (im *Importer) try(ctx context.Context, users []archive.User) ([]ImportResult, error) {
	b, err := im.newBatch(ctx, users)
	if err != nil {
		return nil, fmt.Errorf("looking for users: %w", err)
	}
	var results []ImportResult
	last := int64(0)
	for i := range users {
		result, err := b.decide(&users[i])
		if err != nil {
			return nil, err
		}
		results = append(results, result)
		if result.Kind == Imported {
			last = max(last, users[i].ID)
		}
	}
	if b.users.Len() == 0 {
		return results, nil
	}
	if err := im.reserve(ctx, last); err != nil || im.options.DryRun {
		return results, err
	}
	err = pgx.BeginFunc(ctx, im.conn, func(tx pgx.Tx) error {
		batch := new(pgx.Batch)
		b.users.QueueInsert(batch, "true")
		b.accounts.QueueUpsert(batch, "true")
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return nil, fmt.Errorf("writing users: %w", err)
	}
	return results, nil
}

// ReserveIDs ensures that each user that is created from now on gets an id greater than
// last. Import does that too, for the users that it imports. But without ReserveIDs, a user
// that is created between two calls of Import may get the id of a user in the second call.
// ReserveIDs refuses if fewer than a million ids would be left.
func (im *Importer) ReserveIDs(ctx context.Context, last int64) error {
	if last > im.maxID {
		return fmt.Errorf("reserving user ids up to %d: less than %d would be left for new users; if that is meant, set the sequence first: "+
			"SELECT setval(pg_get_serial_sequence('users', 'id'), %d)", last, minFreeIDs, last)
	}
	return im.retry(ctx, func(ctx context.Context) error { return im.reserve(ctx, last) })
}

// ReservedIDs returns the greatest id that no new user will get, as far as this Importer
// knows. In a dry run it is the id after an import.
func (im *Importer) ReservedIDs() int64 { return im.reserved }

// reserve raises the sequence, which must never be lowered.
func (im *Importer) reserve(ctx context.Context, last int64) error {
	if last <= im.reserved {
		return nil
	}
	if im.options.DryRun {
		im.reserved = last
		return nil
	}
	err := pgx.BeginFunc(ctx, im.conn, func(tx pgx.Tx) error {
		sequence, err := userrows.LockSequence(ctx, tx)
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT CASE WHEN last_value < $1 OR NOT is_called THEN setval($2::text::regclass, greatest($1, last_value))
			ELSE last_value END FROM `+sequence, last, sequence).Scan(&im.reserved)
	})
	if err != nil {
		return fmt.Errorf("reserving user ids: %w", err)
	}
	return nil
}
