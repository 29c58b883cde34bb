package store_test

import (
	"fmt"
	"testing"

	"github.com/glotpod/ident/actor"
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
