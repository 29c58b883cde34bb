package storetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/store"
)

// LockShared locks a partition as a write does.
const LockShared = "SELECT pg_advisory_xact_lock_shared(x'6964656e'::int, $1)"

// OneWaitsForLock selects whether any connection waits for an advisory lock.
const OneWaitsForLock = `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`

// TwoWaitForLocks selects whether exactly two connections wait for advisory locks.
const TwoWaitForLocks = `SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// HoldUpdates makes transactions wait just before they update a user's row, until letGo is
// called.
func (h *Harness) HoldUpdates() (letGo func()) {
	h.T.Helper()
	h.Exec(`CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = '1min' AS $$
		BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$`)
	h.Exec("CREATE TRIGGER hold BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION hold()")
	h.Exec("SELECT pg_advisory_lock(42)")
	return func() { h.Exec("SELECT pg_advisory_unlock(42)") }
}

// HoldWrite starts a write that renames a user. The write passes the fence and then waits
// until letGo is called. letGo waits for the end of the write.
func (h *Harness) HoldWrite(id int64, name string) (letGo func()) {
	h.T.Helper()
	release := h.HoldUpdates()
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := h.RenameUser(h.Store, h.Lease, id, name); err != nil {
			h.T.Error(err)
		}
	})
	h.WaitUntil(OneWaitsForLock)
	return func() {
		release()
		writing.Wait()
	}
}

// Begin begins a transaction. The end of the test rolls it back unless it has ended.
func Begin(t testing.TB, conn *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback(context.Background()) })
	return tx
}

// StartClock gives the database a clock that tests set, for each store that is opened from then
// on. Tables have it as the default of their times.
func (h *Harness) StartClock() {
	h.T.Helper()
	h.Exec("CREATE SCHEMA clock")
	h.Exec("CREATE TABLE clock.clocks (application text PRIMARY KEY, ahead interval)")
	h.Exec(`CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE
		RETURN pg_catalog.now() + coalesce((SELECT ahead FROM clock.clocks WHERE application = current_setting('application_name')), '0')`)
	h.Exec("ALTER DATABASE " + h.Options.Database + " SET search_path = public, clock, pg_catalog")
	h.Exec("SET search_path = public, clock, pg_catalog")
	h.Exec(`DO $$ DECLARE name text; BEGIN
		FOR name IN SELECT oid::regclass FROM pg_class WHERE relname LIKE 'ident\_log%' AND relkind IN ('r', 'p') LOOP
			EXECUTE 'ALTER TABLE ' || name || ' ALTER at SET DEFAULT clock.now()';
		END LOOP; END $$`)
}

// OpenStoreAt opens another store on the same database, with a name and a time.
func (h *Harness) OpenStoreAt(name string, now time.Time) *store.Store {
	h.T.Helper()
	h.SetClock(name, now)
	own := h.Options.Name
	defer func() { h.Options.Name = own }()
	h.Options.Name = name
	return h.OpenStore()
}

// SetClock sets the time of the store with a name.
func (h *Harness) SetClock(name string, now time.Time) {
	h.T.Helper()
	h.Exec(`INSERT INTO clock.clocks (application, ahead) VALUES ('glotpod.ident/' || $1::text, $2 - pg_catalog.now())
		ON CONFLICT (application) DO UPDATE SET ahead = excluded.ahead`, name, now)
}
