package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/store/internal/schema"
)

// A SchemaError means that this program does not work with the database's schema. Its
// fields Have and Want are versions; Have is 0 if the database was never migrated.
type SchemaError = schema.Error

// SchemaVersion returns the version of the schema that this program works with.
func SchemaVersion() int { return schema.Version() }

// CheckSchema returns the version of the database's schema, or a *SchemaError if this
// program does not work with it: if the schema is older than SchemaVersion, or newer by
// a migration after which older programs do not work. The database is a connection, a
// pool or a transaction.
func CheckSchema(ctx context.Context, db schema.Queryer) (version int, err error) {
	return schema.Check(ctx, db)
}

// Migrate updates the schema to SchemaVersion in one transaction. It calls report before
// each migration and returns the resulting version. If another Migrate is running, it
// waits for it. It leaves a newer schema alone if this program works with it; otherwise
// the error is a *SchemaError.
func Migrate(ctx context.Context, conn *pgx.Conn, report func(version int, name string)) (version int, err error) {
	return schema.Migrate(ctx, conn, report)
}
