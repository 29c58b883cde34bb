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
	h.SetNotificationSink(func(n actor.PendingNotification) { seen <- n })
	id := h.CreateUser(1)
	for i := range 20 {
		h.Write("patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", fmt.Sprint(i))})
	}
	h.SetNotificationSink(nil)
	h.Write("delete", "", storetest.Args{"user_id": id})
	stored, err := h.PendingNotifications(t.Context(), nil, 0, 0, 100)
	if err != nil || len(stored) != 22 || len(seen) != 21 {
		t.Fatalf("%d stored, %d sent: %v", len(stored), len(seen), err)
	}
	var ids []int64
	for i, n := range stored {
		ids = append(ids, n.ID)
		if i < 21 {
			if s := <-seen; s.ID != n.ID || s.MessageID != n.MessageID || string(s.Body) != string(n.Body) {
				t.Errorf("sent %+v, stored %+v", s, n)
			}
		}
	}
	if got := string(stored[1].Body); got != fmt.Sprintf(`{"ops":[{"op":"replace","path":"/name","value":"0"}],"user_id":%d}`, id) {
		t.Error(got)
	}
	h.ConfirmNotifications(ids[:21]...)
	left, err := h.PendingNotifications(t.Context(), nil, 0, 0, 100)
	if err != nil || len(left) != 1 || left[0].RoutingKey != "notifications.user.delete" {
		t.Errorf("%+v, %v", left, err)
	}
	if old, err := h.PendingNotifications(t.Context(), nil, 0, time.Hour, 100); err != nil || len(old) != 0 {
		t.Errorf("%v is an hour old: %v", old, err)
	}
}

func TestOutbox(t *testing.T) {
	t.Run("pending_by_partition", testOutboxPendingByPartition)
	t.Run("migration_keeps_notifications", testOutboxMigrationKeepsNotifications)
}

func testOutboxPendingByPartition(t *testing.T) {
	h := storetest.Start(t)
	sent := make(chan actor.PendingNotification, 100)
	h.SetNotificationSink(func(n actor.PendingNotification) { sent <- n })
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
	h.Exec("UPDATE ident_outbox SET partition = NULL WHERE user_id = 9")
	for _, c := range []struct {
		partitions []int
		want       string
	}{
		{nil, "1/0 2/1 3/2 4/0 5/1 6/2 7/0 8/1 9/-1"},
		{[]int{}, "9/-1"},
		{[]int{1}, "2/1 5/1 8/1 9/-1"},
		{[]int{2, 0, 7}, "1/0 3/2 4/0 6/2 7/0 9/-1"},
	} {
		var got []string
		for last := int64(0); ; {
			page, err := h.PendingNotifications(t.Context(), c.partitions, last, 0, 2)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, n := range page {
				got = append(got, fmt.Sprintf("%d/%d", n.UserID, n.Partition))
				last = n.ID
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("of %v: %s, want %s", c.partitions, got, c.want)
		}
	}
}

func testOutboxMigrationKeepsNotifications(t *testing.T) {
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
	all, err := h.PendingNotifications(t.Context(), []int{0}, 0, 0, 10)
	if err != nil || len(all) != 3 {
		t.Fatal(all, err)
	}
	for i, n := range all {
		if n.UserID != int64(i+1) || n.Partition != -1 || string(n.Body) != "body" {
			t.Errorf("%+v", n)
		}
	}
}
