package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Version returns the version of the schema that this program works with.
func Version() int { return len(migrations) }

// An Error means that this program does not work with the database's schema.
type Error struct {
	Have int // 0: never migrated
	Want int
}

func (e *Error) Error() string {
	if e.Have > e.Want {
		return fmt.Sprintf("the database's schema has version %d, newer than this program's %d, which does not work with it: run a newer glotpod-ident", e.Have, e.Want)
	}
	return fmt.Sprintf("the database's schema has version %d, older than this program's %d: run glotpod-ident migrate", e.Have, e.Want)
}

// A Queryer is a connection, a pool or a transaction.
type Queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Check returns the version of the database's schema, or an *Error if this program does
// not work with it: if the schema is older than Version, or newer by a migration after
// which older programs do not work.
func Check(ctx context.Context, db Queryer) (version int, err error) {
	var exists bool
	if err := db.QueryRow(ctx, "SELECT to_regclass('ident_migrations') IS NOT NULL").Scan(&exists); err != nil {
		return 0, fmt.Errorf("reading the schema's version: %w", err)
	}
	if exists {
		if err := db.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM ident_migrations").Scan(&version); err != nil {
			return 0, fmt.Errorf("reading the schema's version: %w", err)
		}
	}
	want := Version()
	works := version == want
	if version > want {
		// The program that migrated to a newer version has added the column oldest.
		const oldest = "SELECT max(coalesce(oldest, version)) <= $1 FROM ident_migrations WHERE version > $1"
		if err := db.QueryRow(ctx, oldest, want).Scan(&works); err != nil {
			return 0, fmt.Errorf("reading which programs work with the schema: %w", err)
		}
	}
	if !works {
		return 0, &Error{Have: version, Want: want}
	}
	return version, nil
}
