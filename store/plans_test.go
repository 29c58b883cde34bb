package store_test

import (
	"crypto/rand"
	"fmt"
	"sync"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store"
)

// TestPlans: no statement reads a whole table, however small the table was when the
// statement was planned. Here the statements are planned while the tables are empty, and
// the planner does not learn that they no longer are.
func TestPlans(t *testing.T) {
	h := start(t)
	h.exec("ALTER TABLE users SET (autovacuum_enabled = false)")
	h.exec("ALTER TABLE services SET (autovacuum_enabled = false)")
	s := h.open() // the server counts its work at the latest when it is closed
	before := h.one(seqScans)
	h.Store = s
	for n := range 10 {
		id := h.create(n)
		h.do("patch", fmt.Sprint("name", n), args{"user_id": id, "ops": replace("/name", "Ada Byron")})
		h.do("patch", fmt.Sprint("email", n), args{"user_id": id, "ops": replace("/email", fmt.Sprintf("byron%d@example.org", n))})
		h.do("patch", fmt.Sprint("github", n), args{"user_id": id, "ops": replace("/github/id", 1000+n)})
		h.do("patch", fmt.Sprint("github", n), args{"user_id": id, "ops": replace("/github/id", 1000+n)}) // again
		email, github := fmt.Sprintf("byron%d@example.org", n), int64(1000+n)
		for _, l := range []actor.Lookup{{UserID: &id}, {Email: &email}, {GitHubID: &github}} {
			if u, err := h.Find(t.Context(), &l); u == nil || err != nil {
				t.Fatalf("user %d is %+v, %v", id, u, err)
			}
		}
		h.do("delete", fmt.Sprint("delete", n), args{"user_id": id})
	}
	s.Close()
	if after := h.one(seqScans); after != before {
		t.Errorf("tables were read from one end to the other %v times", after.(int64)-before.(int64))
	}
}

const seqScans = `SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables
	WHERE relname IN ('users', 'services', 'ident_outbox', 'ident_partitions', 'ident_requests_0', 'ident_requests_1', 'ident_requests_2')`

// TestPlanOfList: a list finds rare words by the index, because the words are known when
// the statement is planned.
func TestPlanOfList(t *testing.T) {
	h := start(t)
	h.exec("INSERT INTO users (name, email_address) SELECT format('common w%s', n), n FROM generate_series(1, 20000) AS n")
	h.exec("VACUUM ANALYZE users")
	s := h.open()
	for _, name := range []string{"Common w19999", "COMMON – w19999"} {
		if users, _, err := s.List(t.Context(), &actor.Page{Size: 10, Name: name}); len(users) != 1 || err != nil {
			t.Fatalf("%q finds %+v, %v", name, users, err)
		}
	}
	s.Close() // the server counts its work soon after
	h.await("SELECT idx_scan = 2 FROM pg_stat_user_indexes WHERE indexrelname = 'users_name_words'")
}

func TestReplan(t *testing.T) {
	t.Run("outdated_plans_are_retried", testReplanOutdatedPlansAreRetried)
}

func testReplanOutdatedPlansAreRetried(t *testing.T) {
	h := start(t)
	id, email := h.create(1), "ada1@example.org"
	h.PrepareConnections(t.Context())
	use := func(after string) {
		t.Helper()
		var listing sync.WaitGroup
		for range 8 { // over several connections
			listing.Go(func() {
				if users, _, err := h.List(t.Context(), &actor.Page{Size: 10}); len(users) != 1 || err != nil {
					t.Errorf("after %s: listed %+v, %v", after, users, err)
				}
			})
		}
		listing.Wait()
		for _, l := range []actor.Lookup{{UserID: &id}, {Email: &email}} {
			if u, err := h.Find(t.Context(), &l); u == nil || err != nil {
				t.Fatalf("after %s: found %+v, %v", after, u, err)
			}
		}
		if all, err := h.PendingNotifications(t.Context(), nil, 0, 0, 100); len(all) == 0 || err != nil {
			t.Fatalf("after %s: pending are %v, %v", after, all, err)
		}
		for range 2 { // one reads the user first, one has it cached
			if o := h.do("patch", "", args{"user_id": id, "ops": replace("/name", rand.Text())}); o.Refusal != nil {
				t.Fatalf("after %s: %v", after, o.Refusal)
			}
		}
	}
	use("nothing")
	for _, sql := range []string{
		"ALTER TABLE users ALTER COLUMN name TYPE text",
		"ALTER TABLE users ALTER COLUMN name TYPE varchar",
		"ALTER TABLE ident_outbox ALTER COLUMN routing_key TYPE varchar",
	} {
		h.exec(sql)
		use(sql)
	}
	if err := store.OnEachIdle(t.Context(), h.Store, "DEALLOCATE ALL"); err != nil {
		t.Fatal(err)
	}
	use("DEALLOCATE ALL")
}
