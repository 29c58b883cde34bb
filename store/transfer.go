package store

import (
	"context"

	"github.com/glotpod/ident/store/archive"
	"github.com/glotpod/ident/store/internal/transfer"
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
