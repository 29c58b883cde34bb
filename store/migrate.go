package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationLock is the key of the advisory lock that lets one migration run at
// a time: "ident" in ASCII.
const migrationLock = 0x6964656e74

// A migration takes the schema from version-1 to version.
type migration struct {
	version int
	name    string
	sql     string
}

// migrations are in order, without a gap, the first one being version 1.
var migrations = readMigrations()

func readMigrations() []migration {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql") // sorted
	if err != nil {
		panic(err)
	}
	var all []migration
	for i, path := range names {
		number, name, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(path, "migrations/"), ".sql"), "_")
		if version, err := strconv.Atoi(number); err != nil || version != i+1 {
			panic("store: migration out of order: " + path)
		}
		sql, err := migrationFiles.ReadFile(path)
		if err != nil {
			panic(err)
		}
		all = append(all, migration{version: i + 1, name: name, sql: string(sql)})
	}
	return all
}

// SchemaVersion is the version of the schema that this program works with.
func SchemaVersion() int { return len(migrations) }

// A SchemaError says that the database's schema is not the one that this
// program works with.
type SchemaError struct {
	Have int // 0: never migrated
	Want int
}

func (e *SchemaError) Error() string {
	if e.Have > e.Want {
		return fmt.Sprintf("the database's schema has version %d, newer than this program's %d: run a newer glotpod-ident", e.Have, e.Want)
	}
	return fmt.Sprintf("the database's schema has version %d, older than this program's %d: run glotpod-ident migrate", e.Have, e.Want)
}

// Migrate brings the schema of the database to SchemaVersion, all of it or, on
// an error, nothing of it. It reports each migration that it is about to
// apply. Where another Migrate is under way, it waits for that one. A schema that is newer
// is a *SchemaError.
func Migrate(ctx context.Context, conn *pgx.Conn, report func(version int, name string)) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// A large table takes its time, and so may whoever has it locked.
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL client_min_messages = warning"); err != nil {
			return fmt.Errorf("lifting the time limits: %w", err)
		}
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
			return fmt.Errorf("locking the schema: %w", err)
		}
		const versions = `CREATE TABLE IF NOT EXISTS ident_migrations (
			version    int PRIMARY KEY,
			name       text NOT NULL,
			applied_at timestamptz NOT NULL DEFAULT now())`
		if _, err := tx.Exec(ctx, versions); err != nil {
			return fmt.Errorf("creating ident_migrations: %w", err)
		}
		err := CheckSchema(ctx, tx)
		var older *SchemaError
		if err == nil || !errors.As(err, &older) || older.Have > older.Want {
			return err
		}
		for _, m := range migrations[older.Have:] {
			report(m.version, m.name)
			if _, err := tx.Exec(ctx, m.sql); err != nil {
				return fmt.Errorf("migration %d (%s): %w", m.version, m.name, err)
			}
			if _, err := tx.Exec(ctx, "INSERT INTO ident_migrations (version, name) VALUES ($1, $2)", m.version, m.name); err != nil {
				return fmt.Errorf("recording migration %d: %w", m.version, err)
			}
		}
		return nil
	})
}

// queryer is a connection, a pool or a transaction.
type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// CheckSchema returns a *SchemaError where the database's schema is not at
// SchemaVersion.
func CheckSchema(ctx context.Context, db queryer) error {
	var there bool
	if err := db.QueryRow(ctx, "SELECT to_regclass('ident_migrations') IS NOT NULL").Scan(&there); err != nil {
		return fmt.Errorf("reading the schema's version: %w", err)
	}
	have := 0
	if there {
		if err := db.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM ident_migrations").Scan(&have); err != nil {
			return fmt.Errorf("reading the schema's version: %w", err)
		}
	}
	if want := SchemaVersion(); have != want {
		return &SchemaError{Have: have, Want: want}
	}
	return nil
}
