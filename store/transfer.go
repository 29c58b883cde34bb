package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/archive"
	"github.com/glotpod/ident/store/internal/transfer"
	"github.com/glotpod/ident/store/internal/userdata"
)

type (
	// An Exporter reads all users of a database, page by page. One goroutine at a time may
	// use it. Each page shows the database at one moment.
	Exporter = transfer.Exporter

	// An Importer adds users to a database under the ids that they have. One goroutine at a
	// time may use it. It never changes or deletes a user, and sends no notifications.
	// Instances may serve the same database meanwhile.
	Importer = transfer.Importer

	// ImportOptions say how users are imported: whether the importer only reads (DryRun), and
	// whether accounts without a token get an empty one (EmptyTokens).
	ImportOptions = transfer.ImportOptions

	// An ImportResult says what an import did with a user.
	ImportResult = transfer.ImportResult

	// An ImportOutcome is the kind of an ImportResult.
	ImportOutcome = transfer.ImportOutcome
)

// A LoggedRequest is a request about a user that the log has.
type LoggedRequest = userdata.LoggedRequest

// ErrUserExists means that a user cannot be erased because it was not deleted.
var ErrUserExists = userdata.ErrExists

// FindUser returns a user without access tokens, nil if there is none.
func FindUser(ctx context.Context, conn *pgx.Conn, id int64) (*actor.User, error) {
	return userdata.Find(ctx, conn, id)
}

// UserLog calls each with the requests about a user that the log has, in their order.
func UserLog(ctx context.Context, conn *pgx.Conn, id int64, each func(LoggedRequest) error) error {
	return userdata.Log(ctx, conn, id, each)
}

// An Erasure says what EraseUser has done.
type Erasure = userdata.Erasure

// EraseUser takes everything that tells something about a deleted user out of the log and of the
// notifications that are not sent, except what the last day's replays need. If the user exists, the
// error is ErrUserExists. It may be interrupted and repeated.
func EraseUser(ctx context.Context, conn *pgx.Conn, id int64) (Erasure, error) {
	return userdata.Erase(ctx, conn, id)
}

const (
	Imported     = transfer.Imported     // in a dry run: would be imported
	AlreadyThere = transfer.AlreadyThere // the same user is stored with the same content
	Conflicting  = transfer.Conflicting  // with another user, with the stored user, or with new users
	Unreadable   = transfer.Unreadable   // no key decrypts a token, or it is missing
)

// MaxImportUsers bounds the users of one call of [Importer.Import]. More gain little.
const MaxImportUsers = transfer.MaxUsers

// OpenExporter opens a database. If its schema is not the one that Migrate makes, the error
// is a *SchemaError. With archive.Omit the exporter does not read access tokens. Close must
// be called.
func OpenExporter(ctx context.Context, o Options, tokens archive.Tokens) (*Exporter, error) {
	return transfer.OpenExporter(ctx, o.settings(), tokens)
}

// OpenImporter opens a database. If its schema is not the one that Migrate makes, the error
// is a *SchemaError. Close must be called.
func OpenImporter(ctx context.Context, o Options, options ImportOptions) (*Importer, error) {
	database := o.settings()
	database.ApplicationName = "glotpod.ident-import/" + o.Name // not an instance: the instances notice a foreign write
	return transfer.OpenImporter(ctx, database, o.Keyring, options)
}
