package leases_test

import (
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/storetest"
)

func handOver(h *storetest.Harness, all ...ownership.HandOver) []ownership.HandedOver {
	h.T.Helper()
	answers, err := h.HandOver(h.T.Context(), all)
	if err != nil {
		h.T.Fatal(err)
	}
	return answers
}

func TestHandOver(t *testing.T) {
	t.Run("only_the_named_lease", testHandOverOnlyTheNamedLease)
	t.Run("answered_in_order", testHandOverAnsweredInOrder)
	t.Run("waits_for_earlier_writes", testHandOverWaitsForEarlierWrites)
	t.Run("notes_what_was_notified", testHandOverNotesWhatWasNotified)
	t.Run("frozen_holder_releases_instead", testHandOverFrozenHolderReleasesInstead)
}

func testHandOverOnlyTheNamedLease(t *testing.T) {
	h := storetest.Start(t)
	none := ownership.Member{}
	row := func(epoch int64, holder string, released bool) ownership.Row {
		return ownership.Row{Lease: partition.Lease{Partition: 1, Epoch: epoch, Holder: storetest.Member(holder)}, Released: released}
	}
	for name, c := range map[string]struct {
		row   ownership.Row
		epoch int64
		to    ownership.Member
		next  ownership.Member
		after ownership.Row
	}{
		"held":                           {row(4, "a", false), 4, storetest.Member("b"), storetest.Member("b"), row(5, "b", false)},
		"held, an earlier epoch":         {row(4, "a", false), 3, storetest.Member("b"), none, row(4, "a", false)},
		"granted before":                 {row(5, "b", false), 4, storetest.Member("b"), storetest.Member("b"), row(5, "b", false)},
		"granted before, and released":   {row(5, "b", true), 4, storetest.Member("b"), none, row(5, "b", true)},
		"granted before, and over":       {row(6, "b", false), 4, storetest.Member("b"), none, row(6, "b", false)},
		"granted before, to another":     {row(5, "c", false), 4, storetest.Member("b"), none, row(5, "c", false)},
		"released":                       {row(4, "a", true), 4, storetest.Member("b"), none, row(4, "a", true)},
		"held, to no member":             {row(4, "a", false), 4, none, none, row(4, "a", true)},
		"an earlier epoch, to no member": {row(4, "a", false), 3, none, none, row(4, "a", false)},
		"another's":                      {row(4, "c", false), 4, storetest.Member("b"), none, row(4, "c", false)},
		"another's, to no member":        {row(4, "c", false), 4, none, none, row(4, "c", false)},
	} {
		t.Run(name, func(t *testing.T) {
			by := c.row.Holder
			h.Exec(`UPDATE ident_partitions SET epoch = $1, holder = $2, holder_start = $3, holder_session = $4, released = $5
				WHERE partition = 1`, c.row.Epoch, by.Name, by.Incarnation.Start, by.Incarnation.Session, c.row.Released)
			answers := handOver(h, ownership.HandOver{Lease: partition.Lease{Partition: 1, Epoch: c.epoch, Holder: storetest.Member("a")}, To: c.to})
			if want := (ownership.HandedOver{Partition: 1, Epoch: c.epoch, To: c.next}); len(answers) != 1 || answers[0] != want {
				t.Errorf("answers %+v, want %+v", answers, want)
			}
			if got := h.StoredRow(1); got != c.after {
				t.Errorf("afterwards %+v, want %+v", got, c.after)
			}
		})
	}
}

func testHandOverAnsweredInOrder(t *testing.T) {
	h := storetest.Start(t)
	first, third := h.ClaimPartition(1, 0), h.ClaimPartition(3, 0)
	answers := handOver(h,
		ownership.HandOver{Lease: third, To: storetest.Member("b")},
		ownership.HandOver{Lease: partition.Lease{Partition: 2, Epoch: 9}, To: storetest.Member("b")},
		ownership.HandOver{Lease: first},
		ownership.HandOver{Lease: h.Lease, To: storetest.Member("c")},
	)
	want := []ownership.HandedOver{
		{Partition: 3, Epoch: third.Epoch, To: storetest.Member("b")},
		{Partition: 2, Epoch: 9},
		{Partition: 1, Epoch: first.Epoch},
		{Partition: 0, Epoch: h.Lease.Epoch, To: storetest.Member("c")},
	}
	if !reflect.DeepEqual(answers, want) {
		t.Errorf("%+v", answers)
	}
}

// A write of the earlier holder may still be under way in the server. If it takes long, the
// partition is released, and the member that claims it waits.
func testHandOverWaitsForEarlierWrites(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	other := h.OpenStore()
	letGo := h.HoldWrite(id, "last")
	var ending sync.WaitGroup
	ending.Go(func() {
		if answers := handOver(h, ownership.HandOver{Lease: h.Lease, To: storetest.Member("next")}); answers[0].To == (ownership.Member{}) {
			h.ClaimPartition(0, 0)
		}
		if u, err := other.Find(t.Context(), &actor.Lookup{UserID: &id}); err != nil || u.Name != "last" {
			t.Errorf("the next holder sees %+v, %v", u, err)
		}
	})
	h.WaitUntil(storetest.TwoWaitForLocks)
	if row := h.StoredRow(0); row.Epoch != h.Lease.Epoch {
		t.Errorf("handed over before the write has ended: %+v", row)
	}
	letGo()
	ending.Wait()
	if err := h.RenameUser(h.Store, h.Lease, id, "too late"); err == nil {
		t.Error("a write was committed under the lease that was handed over")
	}
}

func testHandOverNotesWhatWasNotified(t *testing.T) {
	h := storetest.Start(t)
	for i := range 3 {
		h.CreateUser(i)
	}
	all := h.StoredNotifications()
	if len(all) != 3 {
		t.Fatal(len(all))
	}
	storetest.Confirm(h.Store, all[0].Key(), all[1].Key())
	handOver(h, ownership.HandOver{Lease: h.Lease, To: storetest.Member("next")})
	if left := storetest.StoredNotifications(t, h.OpenStore(), 0); len(left) != 1 || left[0].Position != all[2].Position {
		t.Errorf("the next holder finds %+v", left)
	}
}

func TestTakeOver(t *testing.T) {
	t.Run("held_leases_and_pending_notifications", testTakeOverHeldLeasesAndPendingNotifications)
}

func testTakeOverHeldLeasesAndPendingNotifications(t *testing.T) {
	h := storetest.Start(t)
	h.CreateUser(1)
	by := storetest.Member("next")
	handOver(h, ownership.HandOver{Lease: h.Lease, To: by})
	next := partition.Lease{Partition: 0, Epoch: h.Lease.Epoch + 1, Holder: by}
	released := h.ClaimPartition(2, 0)
	handOver(h, ownership.HandOver{Lease: released, To: by})
	released.Epoch, released.Holder = released.Epoch+1, by
	h.ReleaseLeases(released)
	others := h.ClaimPartition(1, 0)
	earlier := by
	earlier.Incarnation.Session--
	for name, c := range map[string]struct {
		by           ownership.Member
		leases, held []partition.Lease
	}{
		"it holds":                {by, []partition.Lease{next}, []partition.Lease{next}},
		"it was handed over":      {by, []partition.Lease{h.Lease}, nil},
		"it is to come":           {by, []partition.Lease{{Partition: 0, Epoch: next.Epoch + 1}}, nil},
		"it was released":         {by, []partition.Lease{released}, nil},
		"it is another's":         {by, []partition.Lease{others}, nil},
		"it is a later session's": {earlier, []partition.Lease{next}, nil},
		"one of several holds":    {by, []partition.Lease{others, next, released}, []partition.Lease{next}},
		"no such partition":       {by, []partition.Lease{{Partition: 99, Epoch: 1}}, nil},
	} {
		held, backlog, err := storetest.TakeOver(t.Context(), h.Store, c.by, c.leases)
		if err != nil || len(held) != len(c.held) || len(held) > 0 && !reflect.DeepEqual(held, c.held) {
			t.Errorf("%s: %+v, %v", name, held, err)
		}
		if want := len(c.held) > 0; slices.Contains(backlog, 0) != want || len(backlog) > 1 {
			t.Errorf("%s: notifications of %v are left", name, backlog)
		}
	}
	storetest.Confirm(h.Store, h.StoredNotifications()[0].Key())
	handOver(h, ownership.HandOver{Lease: next, To: by})
	next.Epoch++
	if _, backlog, err := storetest.TakeOver(t.Context(), h.Store, by, []partition.Lease{next}); err != nil || len(backlog) > 0 {
		t.Errorf("when all are confirmed: notifications of %v are left, %v", backlog, err)
	}
}

// If a lock is not available, the partitions are released instead, and the member that
// claims them waits for it.
func testHandOverFrozenHolderReleasesInstead(t *testing.T) {
	h := storetest.Start(t)
	other := h.ClaimPartition(1, 0)
	tx := storetest.Begin(t, h.Connect(t))
	if _, err := tx.Exec(t.Context(), storetest.LockShared, 0); err != nil {
		t.Fatal(err)
	}
	answers := handOver(h,
		ownership.HandOver{Lease: h.Lease, To: storetest.Member("b")},
		ownership.HandOver{Lease: other, To: storetest.Member("b")},
	)
	if want := []ownership.HandedOver{{Partition: 0, Epoch: h.Lease.Epoch}, {Partition: 1, Epoch: other.Epoch}}; !reflect.DeepEqual(answers, want) {
		t.Errorf("%+v", answers)
	}
	for p := range 2 {
		if row := h.StoredRow(p); !row.Released {
			t.Errorf("%+v", row)
		}
	}
}
