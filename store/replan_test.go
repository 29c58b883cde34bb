package store_test

import (
	"crypto/rand"
	"sync"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store"
)

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
