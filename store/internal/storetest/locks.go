package storetest

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
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
