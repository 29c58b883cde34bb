package store_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
)

func TestNotificationsAreFoundByTheirPartition(t *testing.T) {
	h := start(t)
	sent := make(chan actor.PendingNotification, 100)
	h.SetNotificationSink(func(n actor.PendingNotification) { sent <- n })
	leases := []partition.Lease{h.lease, h.claim(1, 0), h.claim(2, 0)}
	for i := range 9 {
		w := request(t, "create", fmt.Sprint("m", i), ada(i))
		w.UserID = int64(i + 1)
		if _, err := commit(t.Context(), h, leases[i%3], w); err != nil {
			t.Fatal(err)
		}
		if n := <-sent; n.UserID != w.UserID || n.Partition != i%3 {
			t.Errorf("sent %+v", n)
		}
	}
	h.exec("UPDATE ident_outbox SET partition = NULL WHERE user_id = 9")
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

func TestTheMigrationToPartitionsKeepsWhatIsInTheOutbox(t *testing.T) {
	db := testservers.Postgres(t)
	h := &harness{t: t, db: connect(t, db.URL()), opts: options(t, db)}
	h.exec("CREATE TABLE ident_migrations (version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())")
	for version := 1; version <= 5; version++ {
		h.exec(store.MigrationSQL(version), pgx.QueryExecModeSimpleProtocol)
		h.exec("INSERT INTO ident_migrations (version, name) VALUES ($1, '')", version)
	}
	h.exec(`INSERT INTO ident_outbox (user_id, message_id, routing_key, body, sealed)
		SELECT n, gen_random_uuid(), 'key', 'body', false FROM generate_series(1, 3) AS n`)
	migrate(t, h.db)
	h.Store = h.open()
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

func TestManyWhoWantAUserIDEachGetTheirOwnAndNoneIsLeftOver(t *testing.T) {
	h := start(t)
	const many = 500
	ids := make([]int64, many)
	var drawing sync.WaitGroup
	for i := range ids {
		drawing.Go(func() {
			var err error
			if ids[i], err = h.NewUserID(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	drawing.Wait()
	seen := make(map[int64]bool)
	for _, id := range ids {
		if seen[id] || id < 1 || id > many {
			t.Errorf("id %d", id)
		}
		seen[id] = true
	}
}

func TestATransactionThatIdlesIsEndedAndItsOutcomeIsUnknown(t *testing.T) {
	h := start(t)
	config, err := store.PoolConfig(h.opts)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config.ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if limit := ""; conn.QueryRow(t.Context(), "SHOW idle_in_transaction_session_timeout").Scan(&limit) != nil || limit != "3s" {
		t.Errorf("transactions may idle for %s", limit)
	}
	if _, err := conn.Exec(t.Context(), "SET idle_in_transaction_session_timeout = 1"); err != nil {
		t.Fatal(err)
	}
	tx := begin(t, conn)
	h.await("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", conn.PgConn().PID())
	if err := tx.Commit(t.Context()); err == nil || !store.IsUnreachable(err) {
		t.Errorf("%v", err)
	}
}
