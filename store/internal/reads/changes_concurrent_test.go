package reads_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/reads"
	"github.com/glotpod/ident/store/internal/storetest"
)

// After a change is visible, only later changes of its partition become visible: a subscriber
// that reads all the time while others write finds each change once. A snapshot together with
// the changes after its position has all of them.
func testChangesWhileOthersWrite(t *testing.T) {
	const writers, writes = 6, 60
	h := storetest.Start(t)
	h.SetNotificationSink(nil)
	leases := []partition.Lease{h.Lease, h.ClaimPartition(1, 0), h.ClaimPartition(2, 0), h.ClaimPartition(3, 0)}
	var ids []int64
	for n := range writers {
		w := storetest.Request(t, "create", "", storetest.UserArgs(n))
		w.UserID = h.ReservedUserID()
		if w.UserID == 0 {
			var err error
			if w.UserID, err = storetest.DrawUserID(t.Context(), h.Store); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := storetest.Commit(t.Context(), h.Store, leases[partition.Of(w.UserID, partitions)], w); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, w.UserID)
	}
	found, sequences, after := 0, make(map[int64]int64), ""
	read := func() (more bool) {
		page := readChanges(h, after, 7)
		for _, c := range page.Changes {
			if c.Sequence != sequences[c.UserID]+1 {
				t.Fatalf("change %d of user %d follows %d", c.Sequence, c.UserID, sequences[c.UserID])
			}
			sequences[c.UserID] = c.Sequence
			found++
		}
		after = page.After
		return page.More
	}
	var writing sync.WaitGroup
	for _, id := range ids {
		writing.Go(func() {
			for n := range writes {
				w := storetest.Request(t, "patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", fmt.Sprint(n))})
				if _, err := storetest.Commit(t.Context(), h.Store, leases[partition.Of(id, partitions)], w); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writing.Wait(); close(done) }()
	var snapshots []actor.UserPage
	for writing := true; writing; read() {
		select {
		case <-done:
			writing = false
		default:
		}
		if len(snapshots) < 5 {
			listed, err := h.List(t.Context(), &actor.Page{Size: 100, First: true})
			if err != nil {
				t.Fatal(err)
			}
			snapshots = append(snapshots, listed)
		}
	}
	for read() {
	}
	if found != writers*(writes+1) {
		t.Errorf("%d changes were found", found)
	}
	for _, s := range snapshots {
		names := make(map[int64]string)
		for _, u := range s.Users {
			names[u.ID] = u.Name
		}
		for page := (actor.ChangePage{After: s.After, More: true}); page.More; {
			page = readChanges(h, page.After, 100)
			for _, c := range page.Changes {
				names[c.UserID] = fmt.Sprint(c.Sequence - 2) // so the test names the users
			}
		}
		for _, id := range ids {
			if names[id] != fmt.Sprint(writes-1) {
				t.Errorf("after the snapshot, the name of user %d is %q", id, names[id])
			}
		}
	}
}

// A day may be dropped while its changes are read.
func testChangesDroppedDay(t *testing.T) {
	h := storetest.Start(t)
	fillLog(h, 1, 5, 3, -3, "{}")
	for range 2 * h.Options.MaxConnections { // the statements are prepared
		readChanges(h, "", 10)
	}
	after := reads.ShiftPosition(reads.OtherPartitions(readChanges(h, "", 1).After, partitions), -3)
	tx := storetest.Begin(t, h.Connect(t))
	for _, sql := range []string{
		"UPDATE ident_partitions SET pruned = 7 WHERE partition = 1",
		"DROP TABLE " + h.Value("SELECT 'ident_log_' || to_char((now() AT TIME ZONE 'UTC')::date - 3, 'YYYYMMDD')").(string),
	} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	var reading sync.WaitGroup
	reading.Go(func() { wantChangesRefused(h, after, actor.ChangesMissing) })
	h.WaitUntil(`SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND NOT granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`)
	if err := tx.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	reading.Wait()
}
