package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestNotifications(t *testing.T) {
	t.Run("in_order_and_stored_until_confirmed", testNotificationsInOrderAndStoredUntilConfirmed)
}

func testNotificationsInOrderAndStoredUntilConfirmed(t *testing.T) {
	h := storetest.Start(t)
	seen := make(chan actor.PendingNotification, 100)
	storetest.OnSend(h.Store, func(n actor.PendingNotification) { seen <- n })
	id := h.CreateUser(1)
	for i := range 20 {
		h.Write("patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", fmt.Sprint(i))})
	}
	h.SetNotificationSink(nil)
	h.Write("delete", "", storetest.Args{"user_id": id})
	stored := h.StoredNotifications()
	if len(stored) != 22 || len(seen) != 21 {
		t.Fatalf("%d stored, %d sent", len(stored), len(seen))
	}
	var keys []actor.NotificationKey
	for i, n := range stored {
		keys = append(keys, n.Key())
		if i < 21 {
			if s := <-seen; s.Key() != n.Key() || s.MessageID() != n.MessageID() || s.Sequence != int64(i+1) || n.Sequence != s.Sequence ||
				!s.CommittedAt.Equal(n.CommittedAt) || string(s.Body) != string(n.Body) {
				t.Errorf("sent %+v, stored %+v", s, n)
			}
		}
	}
	if got := string(stored[1].Body); got != fmt.Sprintf(`{"ops":[{"op":"replace","path":"/name","value":"0"}],"user_id":%d}`, id) {
		t.Error(got)
	}
	storetest.Confirm(h.Store, keys[:21]...)
	if left := h.StoredNotifications(); len(left) != 1 || left[0].RoutingKey != "notifications.user.delete" {
		t.Errorf("%+v", left)
	}
}

func TestOutbox(t *testing.T) {
	t.Run("pages_of_a_partition", testOutboxPages)
	t.Run("reads_do_not_depend_on_its_size", testOutboxReads)
	t.Run("take_over_does_not_depend_on_the_log", testOutboxTakeOver)
	t.Run("found_by_the_next_owner", testOutboxNextOwner)
	t.Run("held_back_users", testOutboxHeldBack)
	t.Run("days_are_kept", testOutboxDaysKept)
}

func testOutboxPages(t *testing.T) {
	h := storetest.Start(t)
	sent := make(chan actor.PendingNotification, 100)
	storetest.OnSend(h.Store, func(n actor.PendingNotification) { sent <- n })
	leases := []partition.Lease{h.Lease, h.ClaimPartition(1, 0), h.ClaimPartition(2, 0)}
	for i := range 9 {
		w := storetest.Request(t, "create", fmt.Sprint("m", i), storetest.UserArgs(i))
		w.UserID = int64(i + 1)
		if _, err := storetest.Commit(t.Context(), h, leases[i%3], w); err != nil {
			t.Fatal(err)
		}
		if n := <-sent; n.UserID != w.UserID || n.Lease.Partition != i%3 {
			t.Errorf("sent %+v", n)
		}
	}
	for number, want := range []string{"1/0 4/0 7/0", "2/1 5/1 8/1", "3/2 6/2 9/2", ""} {
		var got []string
		for last, more := int64(0), true; more; {
			page, others, err := h.ReadNotifications(t.Context(), number, last, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range page {
				got = append(got, fmt.Sprintf("%d/%d", n.UserID, n.Lease.Partition))
				last = n.Position
			}
			more = others
		}
		if strings.Join(got, " ") != want {
			t.Errorf("of %v: %s, want %s", number, got, want)
		}
	}
}

// fillLog stores changes of partition 0, each of another user, that were made yesterday, and one
// of partition 1. Up to notified of them were notified.
func fillLog(h *storetest.Harness, rows, notified int) {
	h.T.Helper()
	h.Exec(`INSERT INTO ident_log (at, request, digest, user_id, sequence, position, partition, operation)
		SELECT now() - interval '1 day', gen_random_uuid(), 0, n, 1, n, 0, 'delete' FROM generate_series(1, $1::int) AS n`, rows)
	h.Exec("INSERT INTO ident_log (request, digest, user_id, sequence, position, partition, operation) VALUES (gen_random_uuid(), 0, 7, 1, 1, 1, 'delete')")
	h.Exec("UPDATE ident_partitions SET notified = $1 WHERE partition = 0", notified)
}

// rowsRead opens another store and returns how many rows of the log it reads in f.
func rowsRead(h *storetest.Harness, f func(*store.Store) error) int64 {
	h.T.Helper()
	s := h.OpenStore()
	h.Exec("SELECT pg_stat_reset()")
	if err := f(s); err != nil {
		h.T.Fatal(err)
	}
	s.Close() // the server counts its work then
	h.WaitUntil(`SELECT sum(idx_scan + seq_scan) > 0 FROM pg_stat_user_tables WHERE relname LIKE 'ident\_log\_%'`)
	return h.Value(`SELECT sum(idx_tup_fetch + seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'ident\_log\_%'`).(int64)
}

// testOutboxReads counts the rows of the log that are read when many are pending.
func testOutboxReads(t *testing.T) {
	h := storetest.Start(t)
	const rows, limit = 20_000, 100
	fillLog(h, rows, 0)
	page := rowsRead(h, func(s *store.Store) error {
		page, more, err := s.ReadNotifications(t.Context(), 0, rows/2, limit)
		if err == nil && (len(page) != limit || !more) {
			err = fmt.Errorf("%d were found, more: %t", len(page), more)
		}
		return err
	})
	if page > limit+1 {
		t.Errorf("a page reads %d rows", page)
	}
	takeOver := rowsRead(h, func(s *store.Store) error {
		_, backlog, err := storetest.TakeOver(t.Context(), s, storetest.Member("test"), []partition.Lease{h.Lease})
		if err == nil && len(backlog) != 1 {
			err = fmt.Errorf("notifications of %v are left", backlog)
		}
		return err
	})
	if takeOver > 1 {
		t.Errorf("a take-over reads %d rows", takeOver)
	}
}

// testOutboxTakeOver: a take-over, the first page and the first write read as much with a large
// log as with an empty one.
func testOutboxTakeOver(t *testing.T) {
	rows := 200_000
	if storetest.Long {
		rows = 1_000_000
	}
	h := storetest.Start(t)
	h.CreateUser(1)
	name := 0
	takeOver := func() int64 {
		t.Helper()
		h.ReleaseLeases(h.Lease)
		h.Lease = h.ClaimPartition(0, 0)
		return rowsRead(h, func(s *store.Store) error {
			_, backlog, err := storetest.TakeOver(t.Context(), s, storetest.Member("test"), []partition.Lease{h.Lease})
			if err == nil && len(backlog) != 0 {
				err = fmt.Errorf("notifications of %v are left", backlog)
			}
			if all := storetest.StoredNotifications(t, s, 0); len(all) != 0 {
				t.Errorf("%d are pending", len(all))
			}
			name++
			err = errors.Join(err, h.RenameUser(s, h.Lease, 1, fmt.Sprint(name)))
			for _, n := range storetest.StoredNotifications(t, s, 0) {
				storetest.Confirm(s, n.Key())
			}
			return err
		})
	}
	for _, n := range h.StoredNotifications() {
		storetest.Confirm(h.Store, n.Key())
	}
	few := takeOver()
	// These are of the same partition and of the same days, and were notified.
	h.Exec(`INSERT INTO ident_log (at, request, digest, user_id, sequence, position, partition, operation)
		SELECT now() - n % 2 * interval '1 day', gen_random_uuid(), 0, n, 1, n, 0, 'delete' FROM generate_series(1, $1::int) AS n`, rows)
	if many := takeOver(); many != few {
		t.Errorf("%d rows are read, with an empty log %d", many, few)
	}
}

// testOutboxNextOwner: what is not confirmed when a store ends is found by the next owner, in
// each user's order, and what was confirmed before the last flush is not.
func testOutboxNextOwner(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprint("lost=", lost), func(t *testing.T) {
			h := storetest.Start(t, func(o *store.Options) { o.TokensInNotifications = true })
			ids := []int64{h.CreateUser(1), h.CreateUser(2)}
			for n := range 10 {
				h.Write("patch", "", storetest.Args{"user_id": ids[n%2], "ops": storetest.Replace("/github/access_token", fmt.Sprint("token ", n))})
			}
			all := h.StoredNotifications()
			for _, n := range all[:5] {
				storetest.Confirm(h.Store, n.Key())
			}
			if err := h.WriteCursors(t.Context()); err != nil {
				t.Fatal(err)
			}
			var next partition.Lease
			if lost {
				next = h.ClaimForOther(0, h.Lease.Epoch)
			} else {
				h.ReleaseLeases(h.Lease)
				next = h.ClaimForOther(0, 0)
			}
			s := h.OpenStore()
			if _, backlog, err := storetest.TakeOver(t.Context(), s, storetest.Member("test"), []partition.Lease{next}); err != nil || len(backlog) != 1 {
				t.Fatal(backlog, err)
			}
			found := storetest.StoredNotifications(t, s, 0)
			skipped := len(all) - len(found)
			if skipped != 4 && skipped != 5 { // the cursor does not know that the fifth is followed by none of the other user
				t.Fatalf("%d of %d are found", len(found), len(all))
			}
			for i, n := range found {
				if want := all[skipped+i]; n.Key() != want.Key() || string(n.Body) != string(want.Body) || n.Sequence != want.Sequence || !strings.Contains(string(n.Body), "token ") {
					t.Errorf("found %+v, want %+v", n, want)
				}
				storetest.Confirm(s, n.Key())
			}
			if left := storetest.StoredNotifications(t, s, 0); len(left) != 0 {
				t.Errorf("confirmed ones are found again: %+v", left)
			}
			if err := s.WriteCursors(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := h.Value("SELECT count(*) FROM ident_sealed"); n != int64(0) {
				t.Errorf("%v encrypted notifications are left", n)
			}
			if left := storetest.StoredNotifications(t, h.OpenStore(), 0); len(left) != 0 {
				t.Errorf("after the flush: %+v", left)
			}
		})
	}
}

// testOutboxHeldBack: the cursor passes a user that is held back, whose notifications the next
// owners find nevertheless, until they are confirmed.
func testOutboxHeldBack(t *testing.T) {
	h := storetest.Start(t, func(o *store.Options) { o.TokensInNotifications = true })
	refused := h.CreateUser(1)
	h.Write("patch", "", storetest.Args{"user_id": refused, "ops": storetest.Replace("/name", "Eve")})
	other := h.CreateUser(2)
	for _, n := range h.StoredNotifications() {
		if n.UserID == other || n.Sequence == 1 {
			storetest.Confirm(h.Store, n.Key())
		}
	}
	h.WaitUntil("SELECT EXISTS (SELECT FROM ident_held_back)") // some seconds
	h.Write("patch", "", storetest.Args{"user_id": other, "ops": storetest.Replace("/name", "Ada")})
	last := h.StoredNotifications()
	storetest.Confirm(h.Store, last[len(last)-1].Key())
	h.WaitUntil("SELECT notified = (SELECT max(position) FROM ident_log) FROM ident_partitions WHERE partition = 0")
	for round, want := range []int{1, 2, 0} {
		lease := h.ClaimForOther(0, h.PartitionRow(0).Epoch)
		s := h.OpenStore()
		if _, backlog, err := storetest.TakeOver(t.Context(), s, storetest.Member("test"), []partition.Lease{lease}); err != nil || len(backlog) > 0 != (want > 0) {
			t.Fatalf("round %d: %v, %v", round, backlog, err)
		}
		found := storetest.StoredNotifications(t, s, 0)
		if len(found) != want {
			t.Fatalf("round %d: found are %+v", round, found)
		}
		for i, n := range found {
			if n.UserID != refused || n.Sequence != int64(2+i) || len(n.Body) == 0 {
				t.Errorf("round %d: found %+v", round, n)
			}
			if round == 1 {
				storetest.Confirm(s, n.Key())
			}
		}
		if err := h.RenameUser(s, lease, refused, fmt.Sprint(round)); err != nil {
			t.Fatal(err)
		}
		if round > 0 {
			n := storetest.StoredNotifications(t, s, 0)
			storetest.Confirm(s, n[len(n)-1].Key())
		}
		if err := s.WriteCursors(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.Value("SELECT (SELECT count(*) FROM ident_held_back) + (SELECT count(*) FROM ident_sealed)"); n != int64(0) {
		t.Errorf("%v rows are left", n)
	}
}

// testOutboxDaysKept: a day with changes that were not notified is found, however old it is, and
// is not dropped before they are.
func testOutboxDaysKept(t *testing.T) {
	h := storetest.Start(t, func(o *store.Options) { o.AuditKeep = 0 })
	id := h.CreateUser(1)
	h.ReleaseLeases(h.Lease)
	h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date - n) FROM generate_series(1, 10) AS n")
	h.Exec("UPDATE ident_log SET at = at - interval '9 days'")
	h.Exec("UPDATE ident_partitions SET notified_on = notified_on - 9")
	s := h.OpenStore()
	lease := h.ClaimForOther(0, 0)
	for confirmed := range 2 {
		if err := h.MaintainLog(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, backlog, err := storetest.TakeOver(t.Context(), s, storetest.Member("test"), []partition.Lease{lease})
		if err != nil || len(backlog) != 1-confirmed {
			t.Fatal(backlog, err)
		}
		if gone := h.Value("SELECT "+storetest.LogDay+" IS NULL", -10); gone != true {
			t.Error("a day without changes that were not notified is still there")
		}
		if gone := h.Value("SELECT "+storetest.LogDay+" IS NULL", -9); gone != (confirmed == 1) {
			t.Errorf("the day of the change was dropped: %v", gone)
		}
		if confirmed == 1 {
			break
		}
		all := storetest.StoredNotifications(t, s, 0)
		if len(all) != 1 || all[0].UserID != id {
			t.Fatalf("found %+v", all)
		}
		storetest.Confirm(s, all[0].Key())
		if err := s.WriteCursors(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.Value("SELECT count(*) FROM ident_partitions WHERE pruned > 0 AND pruned = notified AND partition = 0"); n != int64(1) {
		t.Error("it is not noted which changes were dropped")
	}
}
