package store_test

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestPlans: each statement finds what it needs by the leading column of an index, and touches
// nothing else, whatever the planner believes about the tables. In each case 5,000 users,
// with as many rows of the log and pending notifications of other partitions, are added after the
// statements were planned, without the planner learning that.
func TestPlans(t *testing.T) {
	for _, c := range []struct{ name, before string }{
		{"never_analyzed", ""},
		{"analyzed_while_empty", "VACUUM ANALYZE"},
		{"believed_to_have_one_row", "UPDATE pg_class SET reltuples = 1, relpages = 1 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')"},
		{"believed_to_be_large", "UPDATE pg_class SET reltuples = 1e7, relpages = 1e5 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := storetest.Start(t, func(o *store.Options) { o.MaxConnections = 2 }) // one for statements, so that each is planned once
			h.Exec(`DO $$ DECLARE name text; BEGIN
				FOR name IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
					EXECUTE 'ALTER TABLE ' || name || ' SET (autovacuum_enabled = false)';
				END LOOP; END $$`)
			if c.before != "" {
				h.Exec(c.before)
			}
			h.SetNotificationSink(nil)
			h.Options.TokensInNotifications = true
			s, plans := h.OpenExplained()
			h.Store = s
			useStore(h, 1)
			plans.Take() // caches of the connection were empty
			useStore(h, 2)
			before := plans.Take()
			grow(h, 5000)
			useStore(h, 3)
			after := plans.Take()
			// Once more: the caches of a connection are emptied now and then.
			useStore(h, 4)
			again := plans.Take()
			for _, query := range []string{"INSERT INTO ident_held_back", "DELETE FROM ident_held_back", "DELETE FROM ident_sealed", "least(p.notified + 1"} {
				if !slices.ContainsFunc(again, func(p storetest.ExecutedPlan) bool { return strings.Contains(p.Query, query) }) {
					t.Errorf("no statement has %q", query)
				}
			}
			if len(before) < 100 || len(after) < 100 || len(again) < 100 {
				t.Errorf("only %d plans before the growth, and %d and %d after it", len(before), len(after), len(again))
			}
			leading := leadingColumns(h)
			for i := range after {
				checkPlan(t, &after[i], leading)
			}
			few, fewer := blocksByQuery(before), blocksByQuery(again)
			for query, many := range blocksByQuery(after) {
				many = min(many, cmp.Or(fewer[query], many))
				// The indexes are higher. Not each statement was in use before the growth.
				if blocks := cmp.Or(few[query], 20) + 20; many > blocks {
					t.Errorf("%d blocks were read before the growth and %d after it by %s", few[query], many, query)
				}
			}
		})
	}
}

// grow adds users, rows of the log and pending notifications, with keys between those of others.
func grow(h *storetest.Harness, n int) {
	h.T.Helper()
	h.Exec("INSERT INTO users (id, name, email_address) SELECT 1000 + n, 'Grown ' || n, 'ada' || n || '@grown' FROM generate_series(1, $1::int) AS n", n)
	h.Exec("INSERT INTO services (user_id, sv_name, sv_id, access_token) SELECT 1000 + n, e, 1000000 + n, '' FROM generate_series(1, $1::int) AS n, unnest(enum_range(NULL::svc_type)) AS e", n)
	h.Exec(`INSERT INTO ident_log (at, request, digest, user_id, sequence, position, partition, operation, change)
		SELECT now() - day * interval '1 day', gen_random_uuid(), 0, 1000 + n, 1, 2 * n + day, p, 'create', '{}'
		FROM generate_series(1, $1::int) AS n, generate_series(0, 1) AS day, unnest(ARRAY[0, 3]) AS p`, n)
	h.Exec("INSERT INTO ident_sealed (partition, position, user_id, body) SELECT 3, 2 * n, 1000 + n, '' FROM generate_series(1, $1::int) AS n", n)
	h.Exec("INSERT INTO ident_held_back SELECT 3, 1000 + n, 2 * n, now() FROM generate_series(1, $1::int) AS n", n)
}

// useStore has the store carry out each of its statements on users, requests and notifications.
func useStore(h *storetest.Harness, n int) {
	h.T.Helper()
	patch := func(id int64, ops []any) {
		h.T.Helper()
		if o := h.Write("patch", rand.Text(), storetest.Args{"user_id": id, "ops": ops}); o.Refusal != nil {
			h.T.Fatal(o.Refusal)
		}
	}
	id, other := h.CreateUser(10*n), h.CreateUser(10*n+1)
	for i := range 2 { // reading the user and with a cached one, or the other way round
		for range 1 + i {
			patch(id, storetest.Replace("/name", rand.Text()))
		}
		patch(id, storetest.Replace("/email", rand.Text()))
		patch(id, storetest.Replace("/github/id", 1000*n+i))
		patch(id, []any{storetest.Args{"op": "add", "path": "/facebook", "value": storetest.Args{"id": 1000*n + i, "access_token": "t"}}})
		patch(id, []any{storetest.Args{"op": "remove", "path": "/facebook"}})
	}
	message := rand.Text()
	for range 2 { // the second is a replay
		h.Write("patch", message, storetest.Args{"user_id": id, "ops": storetest.Replace("/email", fmt.Sprintf("ada%d@example.org", 10*n))})
	}
	h.Exec("UPDATE ident_log SET at = at - interval '1 hour' WHERE request = ident_request($1)", message)
	reused := storetest.Request(h.T, "patch", message, storetest.Args{"user_id": id, "ops": storetest.Replace("/name", "reused")})
	reused.FirstReceived = time.Now()
	if o, err := storetest.Commit(h.T.Context(), h.Store, h.Lease, reused); !o.Applied || err != nil {
		h.T.Fatalf("the reused request id: %+v, %v", o, err)
	}
	h.Write("create", rand.Text(), storetest.UserArgs(10*n)) // conflicts
	for _, number := range []int{10 * n, 10*n + 2} {         // the one conflicts and the other does not
		if _, _, err := h.NewUserID(h.T.Context(), storetest.Request(h.T, "create", rand.Text(), storetest.UserArgs(number))); err != nil {
			h.T.Fatal(err)
		}
	}
	email, github := fmt.Sprintf("ada%d@example.org", 10*n), int64(1000*n+1)
	for _, l := range []actor.Lookup{{UserID: &id}, {Email: &email}, {GitHubID: &github}} {
		if u, err := h.Find(h.T.Context(), &l); u == nil || err != nil {
			h.T.Fatalf("user %d is %+v, %v", id, u, err)
		}
	}
	for _, page := range []actor.Page{{AfterID: id - 1, Size: 2}, {AfterID: id - 1, Size: 2, First: true}, {IDs: []int64{id, other, 1 << 40}, Size: 2}} {
		if listed, err := h.List(h.T.Context(), &page); len(listed.Users) != 2 || err != nil {
			h.T.Fatalf("listed %v, %v", listed, err)
		}
	}
	patch(other, storetest.Replace("/name", rand.Text()))
	for _, p := range h.StoredNotifications() {
		if p.UserID != id || p.Sequence <= 2 {
			storetest.Confirm(h.Store, p.Key())
		}
	}
	handOverAndTakeOver(h)                                          // the user is held back
	for left, all := 2, h.StoredNotifications(); left > 0; left-- { // the first one, and then the others
		for _, p := range all[:min(len(all), 10_000*(2-left)+1)] {
			storetest.Confirm(h.Store, p.Key())
		}
		if err := h.WriteCursors(h.T.Context()); err != nil {
			h.T.Fatal(err)
		}
	}
	listed, err := h.List(h.T.Context(), &actor.Page{Size: 1, First: true})
	if err != nil {
		h.T.Fatal(err)
	}
	for _, id := range []int64{id, other} {
		h.Write("delete", rand.Text(), storetest.Args{"user_id": id})
	}
	if page, refusal, err := h.Changes(h.T.Context(), &actor.ChangesPage{After: listed.After, Size: 1}); len(page.Changes) != 1 || !page.More || refusal != nil || err != nil {
		h.T.Fatalf("changes %+v, %v, %v", page, refusal, err)
	}
	for _, p := range h.StoredNotifications() {
		storetest.Confirm(h.Store, p.Key())
	}
	if err := h.WriteCursors(h.T.Context()); err != nil {
		h.T.Fatal(err)
	}
	if all := h.StoredNotifications(); len(all) != 0 {
		h.T.Fatal(all)
	}
}

// handOverAndTakeOver gives the lease to its holder again.
func handOverAndTakeOver(h *storetest.Harness) {
	h.T.Helper()
	results, err := h.HandOver(h.T.Context(), []ownership.HandOver{{Lease: h.Lease, To: h.Lease.Holder}})
	if err != nil || results[0].To != h.Lease.Holder {
		h.T.Fatal(results, err)
	}
	h.Lease.Epoch++
	held, _, err := storetest.TakeOver(h.T.Context(), h.Store, h.Lease.Holder, []partition.Lease{h.Lease})
	if err != nil || len(held) != 1 {
		h.T.Fatal(held, err)
	}
	if ended, err := h.EndedLeases(h.T.Context(), []partition.Lease{h.Lease}); err != nil || len(ended) > 0 {
		h.T.Fatal(ended, err)
	}
}

// leadingColumns returns the first column or expression of each index.
func leadingColumns(h *storetest.Harness) map[string]string {
	rows, _ := h.DB.Query(h.T.Context(), "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid, 1, true) FROM pg_index")
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Index, Column string }])
	if err != nil {
		h.T.Fatal(err)
	}
	leading := make(map[string]string)
	for _, i := range all {
		leading[i.Index] = i.Column
	}
	return leading
}

// checkPlan checks that a plan reads no table and no index from one end to the other, and few
// rows. The table of partitions is small: its size is a setting.
func checkPlan(t *testing.T, plan *storetest.ExecutedPlan, leading map[string]string) {
	t.Helper()
	plan.Root.Walk(func(n *storetest.PlanNode) {
		small := n.Relation == "ident_partitions" || strings.HasPrefix(n.Index, "ident_partitions")
		switch {
		case small || n.Relation == "" && n.Index == "" || !strings.HasSuffix(n.Type, "Scan"):
		case n.Type == "Seq Scan":
			t.Errorf("%s is read from one end to the other by %s", n.Relation, plan.Query)
		case n.Index != "" && !strings.Contains(n.IndexCond, "("+leading[n.Index]+" ") && !strings.Contains(n.IndexCond, "("+leading[n.Index]+")::"):
			t.Errorf("%s is not searched by %s but by %q: %s", n.Index, leading[n.Index], n.IndexCond, plan.Query)
		case (n.Rows+n.Filtered)*n.Loops > 20:
			t.Errorf("%.0f rows of %s and more are read by %s", n.Rows*n.Loops, cmp.Or(n.Relation, n.Index), plan.Query)
		}
	})
}

// blocksByQuery returns how many blocks of tables and indexes each statement has read at most.
func blocksByQuery(plans []storetest.ExecutedPlan) map[string]int {
	blocks := make(map[string]int)
	for _, p := range plans {
		blocks[p.Query] = max(blocks[p.Query], p.Root.Hit+p.Root.Read)
	}
	return blocks
}

// TestPlanOfList: a list finds rare words by the index, because the words are known when
// the statement is planned.
func TestPlanOfList(t *testing.T) {
	h := storetest.Start(t)
	h.Exec("INSERT INTO users (name, email_address) SELECT format('common w%s', n), n FROM generate_series(1, 20000) AS n")
	h.Exec("VACUUM ANALYZE users")
	s := h.OpenStore()
	for _, name := range []string{"Common w19999", "COMMON – w19999"} {
		if listed, err := s.List(t.Context(), &actor.Page{Size: 10, Name: name}); len(listed.Users) != 1 || err != nil {
			t.Fatalf("%q finds %+v, %v", name, listed.Users, err)
		}
	}
	s.Close() // the server counts its work soon after
	h.WaitUntil("SELECT idx_scan = 2 FROM pg_stat_user_indexes WHERE indexrelname = 'users_name_words'")
}

func TestReplan(t *testing.T) {
	t.Run("outdated_plans_are_retried", testReplanOutdatedPlansAreRetried)
}

func testReplanOutdatedPlansAreRetried(t *testing.T) {
	h := storetest.Start(t)
	id, email := h.CreateUser(1), "ada1@example.org"
	h.PrepareConnections(t.Context())
	use := func(after string) {
		t.Helper()
		var listing sync.WaitGroup
		for range 8 { // over several connections
			listing.Go(func() {
				if listed, err := h.List(t.Context(), &actor.Page{Size: 10}); len(listed.Users) != 1 || err != nil {
					t.Errorf("after %s: listed %+v, %v", after, listed.Users, err)
				}
			})
		}
		listing.Wait()
		for _, l := range []actor.Lookup{{UserID: &id}, {Email: &email}} {
			if u, err := h.Find(t.Context(), &l); u == nil || err != nil {
				t.Fatalf("after %s: found %+v, %v", after, u, err)
			}
		}
		if all, _, err := h.ReadNotifications(t.Context(), 0, 0, 100); len(all) == 0 || err != nil {
			t.Fatalf("after %s: pending are %v, %v", after, all, err)
		}
		for range 2 { // one reads the user first, one has it cached
			if o := h.Write("patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", rand.Text())}); o.Refusal != nil {
				t.Fatalf("after %s: %v", after, o.Refusal)
			}
		}
	}
	use("nothing")
	for _, sql := range []string{
		"ALTER TABLE users ALTER COLUMN name TYPE text",
		"ALTER TABLE users ALTER COLUMN name TYPE varchar",
		"ALTER TABLE ident_log ALTER COLUMN message TYPE varchar",
	} {
		h.Exec(sql)
		use(sql)
	}
	if err := store.OnEachIdle(t.Context(), h.Store, "DEALLOCATE ALL"); err != nil {
		t.Fatal(err)
	}
	use("DEALLOCATE ALL")
}
