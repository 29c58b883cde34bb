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

// goOn names the migrations after which older programs go on working, and may be
// started still: with each, the version of the schema that the oldest of them was
// written for. So instances are updated one after another, or some of them only,
// or taken back. All others want the older programs stopped before.
var goOn = map[int]int{7: 6, 8: 6, 9: 6}

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

// A SchemaError says that the database's schema is not one that this program
// works with.
type SchemaError struct {
	Have int // 0: never migrated
	Want int
}

func (e *SchemaError) Error() string {
	if e.Have > e.Want {
		return fmt.Sprintf("the database's schema has version %d, newer than this program's %d, which does not work with it: run a newer glotpod-ident", e.Have, e.Want)
	}
	return fmt.Sprintf("the database's schema has version %d, older than this program's %d: run glotpod-ident migrate", e.Have, e.Want)
}

// Migrate brings the schema of the database to SchemaVersion, all of it or, on
// an error, nothing of it. It reports each migration that it is about to apply,
// and returns the version that the schema has in the end. Where another Migrate
// is under way, it waits for that one. A schema that is newer is left alone where
// this program works with it; else it is a *SchemaError.
func Migrate(ctx context.Context, conn *pgx.Conn, report func(version int, name string)) (version int, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// A large table takes its time, and so may whoever has it locked.
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL client_min_messages = warning"); err != nil {
			return fmt.Errorf("lifting the time limits: %w", err)
		}
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
			return fmt.Errorf("locking the schema: %w", err)
		}
		var err error
		version, err = CheckSchema(ctx, tx)
		var older *SchemaError
		if err == nil || !errors.As(err, &older) || older.Have > older.Want {
			return err
		}
		if _, err := tx.Exec(ctx, migrationsTable); err != nil {
			return fmt.Errorf("creating ident_migrations: %w", err)
		}
		for _, m := range migrations[older.Have:] {
			report(m.version, m.name)
			if _, err := tx.Exec(ctx, m.sql); err != nil {
				return fmt.Errorf("migration %d (%s): %w", m.version, m.name, err)
			}
			oldest, ok := goOn[m.version]
			if !ok {
				oldest = m.version
			}
			if _, err := tx.Exec(ctx, "INSERT INTO ident_migrations (version, name, oldest) VALUES ($1, $2, $3)", m.version, m.name, oldest); err != nil {
				return fmt.Errorf("recording migration %d: %w", m.version, err)
			}
			version = m.version
		}
		return nil
	})
	return version, err
}

// The column oldest is younger than the table. Where it is NULL, no older program
// works with the schema.
const migrationsTable = `
	CREATE TABLE IF NOT EXISTS ident_migrations (
		version    int PRIMARY KEY,
		name       text NOT NULL,
		applied_at timestamptz NOT NULL DEFAULT now());
	ALTER TABLE ident_migrations ADD COLUMN IF NOT EXISTS oldest int`

// queryer is a connection, a pool or a transaction.
type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// CheckSchema returns the version of the database's schema, or a *SchemaError
// where this program does not work with it: where that is older than
// SchemaVersion, or newer by a migration that leaves no older program working.
func CheckSchema(ctx context.Context, db queryer) (version int, err error) {
	var there bool
	if err := db.QueryRow(ctx, "SELECT to_regclass('ident_migrations') IS NOT NULL").Scan(&there); err != nil {
		return 0, fmt.Errorf("reading the schema's version: %w", err)
	}
	if there {
		if err := db.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM ident_migrations").Scan(&version); err != nil {
			return 0, fmt.Errorf("reading the schema's version: %w", err)
		}
	}
	want := SchemaVersion()
	works := version == want
	if version > want {
		// Who has migrated to it has added the column.
		const oldest = "SELECT max(coalesce(oldest, version)) <= $1 FROM ident_migrations WHERE version > $1"
		if err := db.QueryRow(ctx, oldest, want).Scan(&works); err != nil {
			return 0, fmt.Errorf("reading who works with the schema: %w", err)
		}
	}
	if !works {
		return 0, &SchemaError{Have: version, Want: want}
	}
	return version, nil
}
