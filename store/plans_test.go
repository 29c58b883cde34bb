package store_test

import (
	"crypto/rand"
	"fmt"
	"sync"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestPlans: no statement reads a whole table, however small the table was when the
// statement was planned. Here the statements are planned while the tables are empty, and
// the planner does not learn that they no longer are.
func TestPlans(t *testing.T) {
	h := storetest.Start(t)
	h.Exec("ALTER TABLE users SET (autovacuum_enabled = false)")
	h.Exec("ALTER TABLE services SET (autovacuum_enabled = false)")
	s := h.OpenStore() // the server counts its work at the latest when it is closed
	before := h.Value(storetest.SequentialScans)
	h.Store = s
	for n := range 10 {
		id := h.CreateUser(n)
		h.Write("patch", fmt.Sprint("name", n), storetest.Args{"user_id": id, "ops": storetest.Replace("/name", "Ada Byron")})
		h.Write("patch", fmt.Sprint("email", n), storetest.Args{"user_id": id, "ops": storetest.Replace("/email", fmt.Sprintf("byron%d@example.org", n))})
		h.Write("patch", fmt.Sprint("github", n), storetest.Args{"user_id": id, "ops": storetest.Replace("/github/id", 1000+n)})
		h.Write("patch", fmt.Sprint("github", n), storetest.Args{"user_id": id, "ops": storetest.Replace("/github/id", 1000+n)}) // again
		email, github := fmt.Sprintf("byron%d@example.org", n), int64(1000+n)
		for _, l := range []actor.Lookup{{UserID: &id}, {Email: &email}, {GitHubID: &github}} {
			if u, err := h.Find(t.Context(), &l); u == nil || err != nil {
				t.Fatalf("user %d is %+v, %v", id, u, err)
			}
		}
		h.Write("delete", fmt.Sprint("delete", n), storetest.Args{"user_id": id})
	}
	s.Close()
	if after := h.Value(storetest.SequentialScans); after != before {
		t.Errorf("tables were read from one end to the other %v times", after.(int64)-before.(int64))
	}
}

// TestPlanOfList: a list finds rare words by the index, because the words are known when
// the statement is planned.
func TestPlanOfList(t *testing.T) {
	h := storetest.Start(t)
	h.Exec("INSERT INTO users (name, email_address) SELECT format('common w%s', n), n FROM generate_series(1, 20000) AS n")
	h.Exec("VACUUM ANALYZE users")
	s := h.OpenStore()
	for _, name := range []string{"Common w19999", "COMMON – w19999"} {
		if users, _, err := s.List(t.Context(), &actor.Page{Size: 10, Name: name}); len(users) != 1 || err != nil {
			t.Fatalf("%q finds %+v, %v", name, users, err)
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
			if o := h.Write("patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", rand.Text())}); o.Refusal != nil {
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
		h.Exec(sql)
		use(sql)
	}
	if err := store.OnEachIdle(t.Context(), h.Store, "DEALLOCATE ALL"); err != nil {
		t.Fatal(err)
	}
	use("DEALLOCATE ALL")
}
