package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestNotifications(t *testing.T) {
	t.Run("in_order_and_stored_until_confirmed", testNotificationsInOrderAndStoredUntilConfirmed)
}

func testNotificationsInOrderAndStoredUntilConfirmed(t *testing.T) {
	h := storetest.Start(t)
	seen := make(chan actor.PendingNotification, 100)
	h.SetNotificationSink(storetest.Sink(func(n actor.PendingNotification) { seen <- n }))
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
			if s := <-seen; s.ID != n.ID || s.MessageID != n.MessageID || string(s.Body) != string(n.Body) {
				t.Errorf("sent %+v, stored %+v", s, n)
			}
		}
	}
	if got := string(stored[1].Body); got != fmt.Sprintf(`{"ops":[{"op":"replace","path":"/name","value":"0"}],"user_id":%d}`, id) {
		t.Error(got)
	}
	h.ConfirmNotifications(keys[:21]...)
	if left := h.StoredNotifications(); len(left) != 1 || left[0].RoutingKey != "notifications.user.delete" {
		t.Errorf("%+v", left)
	}
}

func TestOutbox(t *testing.T) {
	t.Run("pages_of_a_partition", testOutboxPages)
	t.Run("survey", testOutboxSurvey)
	t.Run("reads_do_not_depend_on_its_size", testOutboxReads)
	t.Run("confirmed_ones_are_not_read_again", testOutboxConfirmed)
	t.Run("old_notifications_get_a_partition", testOutboxOldNotifications)
}

func testOutboxPages(t *testing.T) {
	h := storetest.Start(t)
	sent := make(chan actor.PendingNotification, 100)
	h.SetNotificationSink(storetest.Sink(func(n actor.PendingNotification) { sent <- n }))
	leases := []partition.Lease{h.Lease, h.ClaimPartition(1, 0), h.ClaimPartition(2, 0)}
	for i := range 9 {
		w := storetest.Request(t, "create", fmt.Sprint("m", i), storetest.UserArgs(i))
		w.UserID = int64(i + 1)
		if _, err := storetest.Commit(t.Context(), h, leases[i%3], w); err != nil {
			t.Fatal(err)
		}
		if n := <-sent; n.UserID != w.UserID || n.Partition != i%3 {
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
				got = append(got, fmt.Sprintf("%d/%d", n.UserID, n.Partition))
				last = n.ID
			}
			more = others
		}
		if strings.Join(got, " ") != want {
			t.Errorf("of %v: %s, want %s", number, got, want)
		}
	}
}

// fillOutbox stores notifications of partition 0 that are an hour old, and one of
// partition 1.
func fillOutbox(h *storetest.Harness, rows int) {
	h.T.Helper()
	h.Exec(`INSERT INTO ident_outbox (user_id, message_id, routing_key, body, sealed, partition, committed_at)
		SELECT n, gen_random_uuid(), 'key', 'body', false, 0, now() - interval '1 hour' FROM generate_series(1, $1) AS n`, rows)
	h.Exec("INSERT INTO ident_outbox (user_id, message_id, routing_key, body, sealed, partition) VALUES (7, gen_random_uuid(), 'key', 'body', false, 1)")
}

func testOutboxSurvey(t *testing.T) {
	h := storetest.Start(t)
	fillOutbox(h, 30)
	all, err := h.SurveyNotifications(t.Context(), []int{0, 1, 2}, 10)
	if err != nil || len(all) != 11 {
		t.Fatal(all, err)
	}
	for _, n := range all {
		if old := n.Age > 59*time.Minute && n.Age < 61*time.Minute; old != (n.Partition == 0) || n.ID == 0 || n.UserID == 0 {
			t.Errorf("%+v", n)
		}
	}
}

// testOutboxReads counts the rows that are read from a large outbox.
func testOutboxReads(t *testing.T) {
	h := storetest.Start(t)
	h.PrepareConnections(t.Context()) // the statements are planned while the table is empty
	const rows, limit = 20_000, 100
	fillOutbox(h, rows)
	s := h.Store
	read := func(what string, want int64, f func() error) {
		t.Helper()
		const fetched = "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables WHERE relname = 'ident_outbox'"
		h.Exec("SELECT pg_stat_reset()")
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		s.Close() // the server counts its work then
		h.WaitUntil("SELECT idx_scan + seq_scan > 0 FROM pg_stat_user_tables WHERE relname = 'ident_outbox'")
		if n := h.Value(fetched).(int64); n > want {
			t.Errorf("%s reads %d rows, want %d at most", what, n, want)
		}
		s = h.OpenStore()
	}
	read("a page", limit+1, func() error {
		page, more, err := s.ReadNotifications(t.Context(), 0, rows/2, limit)
		if err == nil && (len(page) != limit || !more) {
			err = fmt.Errorf("%d were found, more: %t", len(page), more)
		}
		return err
	})
	read("a survey", limit+1, func() error {
		all, err := s.SurveyNotifications(t.Context(), []int{0, 1}, limit)
		if err == nil && len(all) != limit+1 {
			err = fmt.Errorf("%d were found", len(all))
		}
		return err
	})
	read("a take-over", 1, func() error {
		_, backlog, err := s.TakeOver(t.Context(), storetest.Member("test"), []partition.Lease{h.Lease})
		if err == nil && len(backlog) != 1 {
			err = fmt.Errorf("notifications of %v are left", backlog)
		}
		return err
	})
}

func testOutboxConfirmed(t *testing.T) {
	h := storetest.Start(t)
	fillOutbox(h, 3)
	all := h.StoredNotifications()
	// The row of the first one is locked, so that it cannot be deleted.
	locked := storetest.Begin(t, h.Connect(t))
	if _, err := locked.Exec(t.Context(), "SELECT FROM ident_outbox WHERE id = $1 FOR UPDATE", all[0].ID); err != nil {
		t.Fatal(err)
	}
	h.ConfirmNotifications(all[0].Key())
	h.WaitUntil("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')") // the sweep
	if left := h.StoredNotifications(); len(left) != 2 || left[0].ID != all[1].ID {
		t.Errorf("%+v are left", left)
	}
}

func testOutboxOldNotifications(t *testing.T) {
	db := testservers.Postgres(t)
	h := &storetest.Harness{T: t, DB: storetest.Connect(t, db.URL()), Options: storetest.Options(t, db)}
	h.Exec("CREATE TABLE ident_migrations (version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())")
	for version := 1; version <= 5; version++ {
		h.Exec(store.MigrationSQL(version), pgx.QueryExecModeSimpleProtocol)
		h.Exec("INSERT INTO ident_migrations (version, name) VALUES ($1, '')", version)
	}
	h.Exec(`INSERT INTO ident_outbox (user_id, message_id, routing_key, body, sealed)
		SELECT n, gen_random_uuid(), 'key', 'body', false FROM generate_series(1, 3) AS n`)
	storetest.Migrate(t, h.DB)
	h.Store = h.OpenStore()
	const partitions = 4
	h.Agree(partitions)
	seen := 0
	for number := range partitions {
		for _, n := range storetest.StoredNotifications(t, h.Store, number) {
			if seen++; partition.Of(n.UserID, partitions) != number || n.Partition != number || string(n.Body) != "body" {
				t.Errorf("%+v", n)
			}
		}
	}
	if seen != 3 {
		t.Errorf("%d were found", seen)
	}
}
