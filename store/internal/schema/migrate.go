package schema

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

// migrationLock is the key of the advisory lock that lets one Migrate run at a time:
// "ident" in ASCII.
const migrationLock = 0x6964656e74

// A migration takes the schema from version-1 to version.
type migration struct {
	version int
	name    string
	sql     string
}

// migrations are in order and without a gap. The first is version 1.
var migrations = readMigrations()

// oldestWorking names the migrations after which older programs still work and may
// still be started. The value is the schema version of the oldest such program. These
// migrations allow rolling updates, partial updates and downgrades. Any other migration
// requires that older programs are stopped first.
var oldestWorking = map[int]int{7: 6, 8: 6, 9: 6, 10: 6, 11: 6, 12: 6, 13: 6, 15: 14, 16: 14, 17: 14}

func readMigrations() []migration {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql") // sorted
	if err != nil {
		panic(err)
	}
	var all []migration
	for i, path := range names {
		number, name, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(path, "migrations/"), ".sql"), "_")
		if version, err := strconv.Atoi(number); err != nil || version != i+1 {
			panic("schema: migration out of order: " + path)
		}
		sql, err := migrationFiles.ReadFile(path)
		if err != nil {
			panic(err)
		}
		all = append(all, migration{version: i + 1, name: name, sql: string(sql)})
	}
	return all
}

// SQL returns the statements that take the schema from version-1 to version.
func SQL(version int) string { return migrations[version-1].sql }

// Migrate updates the schema to Version in one transaction. It calls report before each
// migration and returns the resulting version. If another Migrate is running, it waits
// for it. It leaves a newer schema alone if this program works with it; otherwise the
// error is an *Error.
func Migrate(ctx context.Context, conn *pgx.Conn, report func(version int, name string)) (version int, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// A large table takes time, and so may another session that has locked it.
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL client_min_messages = warning"); err != nil {
			return fmt.Errorf("lifting the time limits: %w", err)
		}
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
			return fmt.Errorf("locking the schema: %w", err)
		}
		var err error
		version, err = Check(ctx, tx)
		var older *Error
		if err == nil || !errors.As(err, &older) || older.Have > older.Want {
			return err
		}
		if _, err := tx.Exec(ctx, migrationsTable); err != nil {
			return fmt.Errorf("creating ident_migrations: %w", err)
		}
		for _, m := range migrations[older.Have:] {
			report(m.version, m.name)
			if err := m.apply(ctx, tx); err != nil {
				return err
			}
			version = m.version
		}
		return nil
	})
	return version, err
}

func (m migration) apply(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, m.sql); err != nil {
		return fmt.Errorf("migration %d (%s): %w", m.version, m.name, err)
	}
	oldest, ok := oldestWorking[m.version]
	if !ok {
		oldest = m.version
	}
	if _, err := tx.Exec(ctx, "INSERT INTO ident_migrations (version, name, oldest) VALUES ($1, $2, $3)", m.version, m.name, oldest); err != nil {
		return fmt.Errorf("recording migration %d: %w", m.version, err)
	}
	return nil
}

// The column oldest was added to the table later. NULL means that no older program works
// with the schema.
const migrationsTable = `
	CREATE TABLE IF NOT EXISTS ident_migrations (
		version    int PRIMARY KEY,
		name       text NOT NULL,
		applied_at timestamptz NOT NULL DEFAULT now());
	ALTER TABLE ident_migrations ADD COLUMN IF NOT EXISTS oldest int`
