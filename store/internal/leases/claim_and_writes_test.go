package leases_test

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
	"github.com/glotpod/ident/store/internal/storetest"
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
	h := storetest.Start(t)
	id := h.CreateUser(1)
	other := h.OpenStore()
	letGo := h.HoldWrite(id, "last")
	var claiming sync.WaitGroup
	h.ReleaseLeases(h.Lease)
	claiming.Go(func() {
		events, err := other.Claim(t.Context(), []ownership.Claim{{Partition: 0, By: storetest.Member("next")}})
		if err != nil || events[0] != (ownership.Claimed{Partition: 0, Epoch: h.Lease.Epoch + 1}) {
			t.Error(events, err)
		}
		u, err := other.Find(t.Context(), &actor.Lookup{UserID: &id})
		if err != nil || u.Name != "last" {
			t.Errorf("the new holder sees %+v, %v", u, err)
		}
		if all := storetest.StoredNotifications(t, other, 0); len(all) != 2 {
			t.Errorf("the new holder finds %d notifications, want 2", len(all))
		}
	})
	h.WaitUntil(storetest.TwoWaitForLocks)
	if row := h.PartitionRow(0); row.Epoch != h.Lease.Epoch {
		t.Errorf("claimed before the write has ended: %+v", row)
	}
	letGo()
	claiming.Wait()
}

func testClaimAndWritesClaimWaitsForALostCommit(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	dying := h.Connect(t).PgConn()
	dying.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf(`BEGIN; SELECT pg_advisory_xact_lock_shared(x'6964656e'::int, 0);
		UPDATE users SET name = 'last' WHERE id = %d; SELECT pg_sleep(0.5); COMMIT`, id)})
	if err := dying.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	h.WaitUntil(`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep')`)
	if err := dying.Conn().Close(); err != nil {
		t.Fatal(err)
	}
	h.ReleaseLeases(h.Lease)
	h.ClaimPartition(0, 0)
	if got := h.User(id).Name; got != "last" {
		t.Errorf("the new holder sees the name %q", got)
	}
}

func testClaimAndWritesFrozenTransactionIsTerminated(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	tx := storetest.Begin(t, h.Connect(t))
	if _, err := tx.Exec(t.Context(), storetest.LockShared, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "UPDATE users SET name = 'stale' WHERE id = $1", id); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	events, err := h.Claim(t.Context(), []ownership.Claim{
		{Partition: 0, Attempt: 1, Depose: h.Lease.Epoch, By: storetest.Member("b")},
		{Partition: 1, Attempt: 2, By: storetest.Member("b")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the claim took %v", took)
	}
	if events[0] != (ownership.Claimed{Partition: 0, Attempt: 1, Epoch: h.Lease.Epoch + 1, Deposed: true}) ||
		events[1] != (ownership.Claimed{Partition: 1, Attempt: 2, Epoch: 1}) {
		t.Errorf("%+v", events)
	}
	lease := partition.Lease{Partition: 0, Epoch: h.Lease.Epoch + 1, Holder: storetest.Member("b")}
	if err := h.RenameUser(h.Store, lease, id, "new"); err != nil {
		t.Error(err)
	}
	if err := tx.Commit(t.Context()); err == nil {
		t.Error("the frozen transaction was committed")
	}
	if u := h.User(id); u.Name != "new" {
		t.Errorf("%+v", u)
	}
}

func testClaimAndWritesRefusedClaimDisturbsNobody(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	writing := storetest.Begin(t, h.Connect(t))
	if _, err := writing.Exec(t.Context(), storetest.LockShared, 0); err != nil {
		t.Fatal(err)
	}
	for _, depose := range []int64{0, h.Lease.Epoch - 1, h.Lease.Epoch + 1} {
		events, err := h.Claim(t.Context(), []ownership.Claim{{Partition: 0, Depose: depose, By: storetest.Member("b")}})
		if _, refused := events[0].(ownership.ClaimRefused); err != nil || !refused {
			t.Errorf("%+v, %v", events, err)
		}
		if err := h.RenameUser(h.Store, h.Lease, id, "ours"); err != nil {
			t.Error(err)
		}
	}
	if err := writing.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}

func testClaimAndWritesTerminatedWriteIsFenced(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	h.HoldUpdates()
	failed := make(chan error, 1)
	var writing sync.WaitGroup
	writing.Go(func() { failed <- h.RenameUser(h.Store, h.Lease, id, "stale") })
	h.WaitUntil(storetest.OneWaitsForLock)
	h.ClaimPartition(0, h.Lease.Epoch)
	writing.Wait()
	if err := <-failed; !errors.Is(err, actor.ErrFenced) {
		t.Errorf("the write: %v", err)
	}
	if u := h.User(id); u.Name != "Ada 1" {
		t.Errorf("%+v", u)
	}
}

func testClaimAndWritesExclusiveLockIsNotStarved(t *testing.T) {
	h := storetest.Start(t)
	stop := make(chan struct{})
	var writing sync.WaitGroup
	var shared atomic.Int64
	for range 4 {
		conn := h.Connect(t)
		writing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
					if _, err := tx.Exec(t.Context(), storetest.LockShared, 0); err != nil {
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
	h.Exec("SET lock_timeout = '10s'")
	h.WaitUntil(`SELECT count(*) >= 3 FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock'
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	for range 20 {
		before := shared.Load()
		h.Exec("SELECT pg_advisory_xact_lock(x'6964656e'::int, 0)")
		if n := shared.Load() - before; n > 100 {
			t.Errorf("%d transactions overtook the exclusive lock", n)
		}
	}
	close(stop)
	writing.Wait()
}

func testClaimAndWritesClaimsUnderLoad(t *testing.T) {
	h := storetest.Start(t)
	other := h.OpenStore()
	const writers = 32
	ids := make([]int64, writers)
	for i := range ids {
		ids[i] = h.CreateUser(i)
	}
	var epoch, applied atomic.Int64
	epoch.Store(h.Lease.Epoch)
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
				err := h.RenameUser(s, partition.Lease{Partition: 0, Epoch: epoch.Load(), Holder: h.Lease.Holder}, id, fmt.Sprint(n))
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
		epoch.Store(h.ClaimPartition(0, epoch.Load()).Epoch)
		longest = max(longest, time.Since(begun))
	}
	t.Log("the longest claim took", longest)
	close(stop)
	writing.Wait()
}
