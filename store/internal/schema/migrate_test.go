package schema_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/schema"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// TestMigrateBesideTransactions: a transaction of the Python service, or of an older program,
// that goes on from users to services is no reason for Migrate to fail.
func TestMigrateBesideTransactions(t *testing.T) {
	for name, version := range map[string]int{"python": 1, "older_program": 9} {
		t.Run(name, func(t *testing.T) {
			db := testservers.Postgres(t)
			h := &storetest.Harness{T: t, DB: storetest.Connect(t, db.URL())}
			h.Exec("CREATE TABLE ident_migrations (version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())")
			for applied := 1; applied <= version; applied++ {
				h.Exec(schema.SQL(applied), pgx.QueryExecModeSimpleProtocol)
				h.Exec("INSERT INTO ident_migrations (version, name) VALUES ($1, '')", applied)
			}
			migrating := h.Connect(t)
			tx := storetest.Begin(t, h.Connect(t))
			if _, err := tx.Exec(t.Context(), "SELECT FROM users"); err != nil {
				t.Fatal(err)
			}
			migrated := make(chan error, 1)
			go func() {
				_, err := store.Migrate(t.Context(), migrating, func(int, string) {})
				migrated <- err
			}()
			h.WaitUntil("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')")
			if _, err := tx.Exec(t.Context(), "SELECT FROM services"); err != nil {
				t.Errorf("the transaction failed: %v", err)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Error(err)
			}
			if err := <-migrated; err != nil {
				t.Error(err)
			}
		})
	}
}
