package store_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
)

func TestClaimAndWrites(t *testing.T) {
	t.Run("claim_waits_for_earlier_writes", testClaimAndWritesClaimWaitsForEarlierWrites)
	t.Run("claim_waits_for_a_lost_commit", testClaimAndWritesClaimWaitsForALostCommit)
	t.Run("frozen_transaction_is_terminated", testClaimAndWritesFrozenTransactionIsTerminated)
	t.Run("refused_claim_disturbs_nobody", testClaimAndWritesRefusedClaimDisturbsNobody)
	t.Run("terminated_write_is_fenced", testClaimAndWritesTerminatedWriteIsFenced)
	t.Run("exclusive_lock_is_not_starved", testClaimAndWritesExclusiveLockIsNotStarved)
	t.Run("claims_under_load", testClaimAndWritesClaimsUnderLoad)
}

func testClaimAndWritesClaimWaitsForEarlierWrites(t *testing.T) {
	h := start(t)
	id := h.create(1)
	other := h.open()
	letGo := h.holdUpWrite(id, "last")
	var claiming sync.WaitGroup
	h.release(h.lease)
	claiming.Go(func() {
		events, err := other.Claim(t.Context(), []ownership.Claim{{Partition: 0, By: member("next")}})
		if err != nil || events[0] != (ownership.Claimed{Partition: 0, Epoch: h.lease.Epoch + 1}) {
			t.Error(events, err)
		}
		u, err := other.Find(t.Context(), &actor.Lookup{UserID: &id})
		if err != nil || u.Name != "last" {
			t.Errorf("the new holder sees %+v, %v", u, err)
		}
		if all, err := other.PendingNotifications(t.Context(), []int{0}, 0, 0, 10); err != nil || len(all) != 2 {
			t.Errorf("the new holder finds %d notifications, want 2: %v", len(all), err)
		}
	})
	h.await(twoWaitForLocks)
	if row := h.row(0); row.Epoch != h.lease.Epoch {
		t.Errorf("claimed before the write has ended: %+v", row)
	}
	letGo()
	claiming.Wait()
}

const twoWaitForLocks = `SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// holdUpdates makes transactions wait just before they update a user's row, until letGo is
// called.
func (h *harness) holdUpdates() (letGo func()) {
	h.t.Helper()
	h.exec(`CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = '1min' AS $$
		BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$`)
	h.exec("CREATE TRIGGER hold BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION hold()")
	h.exec("SELECT pg_advisory_lock(42)")
	return func() { h.exec("SELECT pg_advisory_unlock(42)") }
}

// holdUpWrite starts a write that renames a user. The write passes the fence and then waits
// until letGo is called. letGo waits for the end of the write.
func (h *harness) holdUpWrite(id int64, name string) (letGo func()) {
	h.t.Helper()
	let := h.holdUpdates()
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := rename(h, h.Store, h.lease, id, name); err != nil {
			h.t.Error(err)
		}
	})
	h.await(waitsForLock)
	return func() {
		let()
		writing.Wait()
	}
}

func testClaimAndWritesClaimWaitsForALostCommit(t *testing.T) {
	h := start(t)
	id := h.create(1)
	dying := connect(t, h.db.Config().ConnString()).PgConn()
	dying.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf(`BEGIN; SELECT pg_advisory_xact_lock_shared(x'6964656e'::int, 0);
		UPDATE users SET name = 'last' WHERE id = %d; SELECT pg_sleep(0.5); COMMIT`, id)})
	if err := dying.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	h.await(`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep')`)
	if err := dying.Conn().Close(); err != nil {
		t.Fatal(err)
	}
	h.release(h.lease)
	h.claim(0, 0)
	if got := h.get(id).Name; got != "last" {
		t.Errorf("the new holder sees the name %q", got)
	}
}

func testClaimAndWritesFrozenTransactionIsTerminated(t *testing.T) {
	h := start(t)
	id := h.create(1)
	tx := begin(t, connect(t, h.db.Config().ConnString()))
	if _, err := tx.Exec(t.Context(), lockShared, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "UPDATE users SET name = 'stale' WHERE id = $1", id); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	events, err := h.Claim(t.Context(), []ownership.Claim{
		{Partition: 0, Attempt: 1, Depose: h.lease.Epoch, By: member("b")},
		{Partition: 1, Attempt: 2, By: member("b")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the claim took %v", took)
	}
	if events[0] != (ownership.Claimed{Partition: 0, Attempt: 1, Epoch: h.lease.Epoch + 1}) ||
		events[1] != (ownership.Claimed{Partition: 1, Attempt: 2, Epoch: 1}) {
		t.Errorf("%+v", events)
	}
	lease := partition.Lease{Partition: 0, Epoch: h.lease.Epoch + 1}
	if err := rename(h, h.Store, lease, id, "new"); err != nil {
		t.Error(err)
	}
	if err := tx.Commit(t.Context()); err == nil {
		t.Error("the frozen transaction was committed")
	}
	if u := h.get(id); u.Name != "new" {
		t.Errorf("%+v", u)
	}
}

func testClaimAndWritesRefusedClaimDisturbsNobody(t *testing.T) {
	h := start(t)
	id := h.create(1)
	writing := begin(t, connect(t, h.db.Config().ConnString()))
	if _, err := writing.Exec(t.Context(), lockShared, 0); err != nil {
		t.Fatal(err)
	}
	for _, depose := range []int64{0, h.lease.Epoch - 1, h.lease.Epoch + 1} {
		events, err := h.Claim(t.Context(), []ownership.Claim{{Partition: 0, Depose: depose, By: member("b")}})
		if _, refused := events[0].(ownership.ClaimRefused); err != nil || !refused {
			t.Errorf("%+v, %v", events, err)
		}
		if err := rename(h, h.Store, h.lease, id, "ours"); err != nil {
			t.Error(err)
		}
	}
	if err := writing.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}

func testClaimAndWritesTerminatedWriteIsFenced(t *testing.T) {
	h := start(t)
	id := h.create(1)
	h.holdUpdates()
	failed := make(chan error, 1)
	var writing sync.WaitGroup
	writing.Go(func() { failed <- rename(h, h.Store, h.lease, id, "stale") })
	h.await(waitsForLock)
	h.claim(0, h.lease.Epoch)
	writing.Wait()
	if err := <-failed; !errors.Is(err, actor.ErrFenced) {
		t.Errorf("the write: %v", err)
	}
	if u := h.get(id); u.Name != "Ada 1" {
		t.Errorf("%+v", u)
	}
}

func testClaimAndWritesExclusiveLockIsNotStarved(t *testing.T) {
	h := start(t)
	stop := make(chan struct{})
	var writing sync.WaitGroup
	var shared atomic.Int64
	for range 4 {
		conn := connect(t, h.db.Config().ConnString())
		writing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
					if _, err := tx.Exec(t.Context(), lockShared, 0); err != nil {
						return err
					}
					_, err := tx.Exec(t.Context(), "SELECT pg_sleep(0.005)") // so that they overlap
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
				shared.Add(1)
			}
		})
	}
	h.exec("SET lock_timeout = '10s'")
	h.await(`SELECT count(*) >= 3 FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock'
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	for range 20 {
		before := shared.Load()
		h.exec("SELECT pg_advisory_xact_lock(x'6964656e'::int, 0)")
		if n := shared.Load() - before; n > 100 {
			t.Errorf("%d transactions overtook the exclusive lock", n)
		}
	}
	close(stop)
	writing.Wait()
}

func testClaimAndWritesClaimsUnderLoad(t *testing.T) {
	h := start(t)
	other := h.open()
	const writers = 32
	ids := make([]int64, writers)
	for i := range ids {
		ids[i] = h.create(i)
	}
	var epoch, applied atomic.Int64
	epoch.Store(h.lease.Epoch)
	stop := make(chan struct{})
	var writing sync.WaitGroup
	for i, id := range ids {
		s := []*store.Store{h.Store, other}[i%2]
		writing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				err := rename(h, s, partition.Lease{Partition: 0, Epoch: epoch.Load()}, id, fmt.Sprint(n))
				switch {
				case err == nil:
					applied.Add(1)
				case !errors.Is(err, actor.ErrFenced):
					t.Error(err)
				}
			}
		})
	}
	var longest time.Duration
	for range 20 {
		for before := applied.Load(); applied.Load() < before+writers; {
			runtime.Gosched()
		}
		begun := time.Now()
		epoch.Store(h.claim(0, epoch.Load()).Epoch)
		longest = max(longest, time.Since(begun))
	}
	t.Log("the longest claim took", longest)
	close(stop)
	writing.Wait()
}
