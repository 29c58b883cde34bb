package store_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestTakenUserIDs: after a create has found its id taken, no more ids of users are drawn.
func TestTakenUserIDs(t *testing.T) {
	t.Run("sequence_is_behind", testSequenceBehind)
	t.Run("one_id_is_taken", testOneIDTaken)
	t.Run("greatest_id_is_taken", testGreatestIDTaken)
	t.Run("great_id_is_taken", testGreatIDTaken)
	t.Run("next_raise_goes_on", testNextRaise)
	t.Run("sequence_is_lowered", testSequenceLowered)
}

// TestUserIDsLeft: stores that serve count the ids that are left, up to the limit of the sequence.
func TestUserIDsLeft(t *testing.T) {
	h := storetest.Start(t)
	left := func(s *store.Store) float64 {
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(s)
		all, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if m.GetName() == "glotpod_ident_user_ids_left" {
				return m.Metric[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	if n := left(h.Store); !math.IsNaN(n) {
		t.Errorf("%v are left, which nobody has counted", n)
	}
	for _, c := range []struct {
		change string
		want   float64
	}{
		{"SELECT", math.MaxInt64},
		{"SELECT setval('users_id_seq', 1000)", math.MaxInt64 - 1000},
		{"ALTER SEQUENCE users_id_seq MAXVALUE 2147483647", math.MaxInt32 - 1000},
		{"SELECT setval('users_id_seq', 2147483647)", 0},
	} {
		h.Exec(c.change)
		opts := h.Options
		opts.Maintain = true
		s, err := store.Open(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); math.IsNaN(left(s)) && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if n := left(s); n != c.want {
			t.Errorf("%s: %v are left, want %v", c.change, n, c.want)
		}
		s.Close()
	}
}

// openWatched opens another store and returns the warnings about the sequence.
func openWatched(h *storetest.Harness) (*store.Store, func() []observer.LoggedEntry) {
	core, logs := observer.New(zapcore.WarnLevel)
	opts := h.Options
	opts.Log = zap.New(core)
	s, err := store.Open(h.T.Context(), opts)
	if err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(s.Close)
	return s, func() []observer.LoggedEntry {
		return logs.Filter(func(e observer.LoggedEntry) bool {
			return strings.HasPrefix(e.Message, "sequence of user ids was behind")
		}).All()
	}
}

// createOn creates a user and returns its id and how many ids were taken.
func createOn(h *storetest.Harness, s *store.Store, n int) (id int64, taken int) {
	w := storetest.Request(h.T, "create", fmt.Sprint("create ", n), storetest.UserArgs(n))
	for {
		if w.UserID = s.ReservedUserID(); w.UserID == 0 {
			var err error
			if w.UserID, err = storetest.DrawUserID(h.T.Context(), s); err != nil {
				h.T.Error(err)
				return 0, taken
			}
		}
		o, err := storetest.Commit(h.T.Context(), s, h.Lease, w)
		if err != nil {
			h.T.Error(err)
			return 0, taken
		}
		if o.Refusal == nil {
			return o.UserID, taken
		}
		if o.Refusal != actor.UserIDTaken || taken > 10 {
			h.T.Errorf("create %d, after %d taken ids: %v", n, taken, o.Refusal)
			return 0, taken
		}
		taken++
	}
}

func testSequenceBehind(t *testing.T) {
	const first, last = 100, 20_000 // ids of the users that are restored
	h := storetest.Start(t)
	a, warningsOfA := openWatched(h)
	b, warningsOfB := openWatched(h)
	for n := range 3 { // so that ids are reserved
		createOn(h, a, -1-n)
		createOn(h, b, -101-n)
	}
	h.Exec("INSERT INTO users (id, name, email_address) SELECT n, 'restored', 'restored' || n FROM generate_series($1::int, $2) AS n", first, last)
	h.Exec("SELECT setval('users_id_seq', $1)", first)

	const creates = 64
	ids := make([]int64, creates)
	taken := make([]int, creates)
	ctx, cancel := context.WithCancel(t.Context())
	var creating, inserting sync.WaitGroup
	inserting.Go(func() { // as the Python service does
		for n := 0; ctx.Err() == nil; n++ {
			h.DB.Exec(t.Context(), "INSERT INTO users (name, email_address) VALUES ('Python', 'python' || $1::int)", n)
		}
	})
	for i := range creates {
		creating.Go(func() { ids[i], taken[i] = createOn(h, []*store.Store{a, b}[i%2], i) })
	}
	creating.Wait()
	cancel()
	inserting.Wait()
	seen := make(map[int64]bool)
	for i, id := range ids {
		if id >= first && id <= last || seen[id] { // some lower ids were reserved before
			t.Errorf("create %d got the id %d", i, id)
		}
		seen[id] = true
		if taken[i] > 2 {
			t.Errorf("create %d found %d ids taken", i, taken[i])
		}
	}
	warnings := append(warningsOfA(), warningsOfB()...)
	if len(warnings) != 1 {
		t.Fatalf("%d warnings, want 1", len(warnings))
	}
	fields := warnings[0].ContextMap()
	if was, is := fields["was"].(int64), fields["is"].(int64); was < first || was >= last || is != last {
		t.Errorf("the sequence was %d and is %d", was, is)
	}
	if n := h.Value("SELECT count(*) FROM users WHERE name LIKE 'Ada %'"); n != int64(6+creates) {
		t.Errorf("%v users were created, want %d", n, 6+creates)
	}
}

// testOneIDTaken: another program has chosen an id that was drawn already. Then nothing is
// wrong with the sequence.
func testOneIDTaken(t *testing.T) {
	h := storetest.Start(t)
	s, warnings := openWatched(h)
	createOn(h, s, 1)
	id, err := storetest.DrawUserID(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	h.Exec("INSERT INTO users (id, name, email_address) VALUES ($1, 'theirs', 'theirs')", id)
	w := storetest.Request(t, "create", "second", storetest.UserArgs(2))
	w.UserID = id
	o, err := storetest.Commit(t.Context(), s, h.Lease, w)
	if err != nil || o.Refusal != actor.UserIDTaken {
		t.Fatalf("%+v, %v", o, err)
	}
	if next, taken := createOn(h, s, 2); next <= id || taken > 0 {
		t.Errorf("got the id %d after %d and %d that were taken", next, id, taken)
	}
	if n := len(warnings()); n > 0 {
		t.Errorf("%d warnings", n)
	}
}

// testGreatestIDTaken: a user with the greatest of all ids does not use up the sequence.
func testGreatestIDTaken(t *testing.T) {
	h := storetest.Start(t)
	s, _ := openWatched(h)
	h.Exec("INSERT INTO users (id, name, email_address) VALUES (1, 'a', 'a'), (2, 'b', 'b'), (50, 'c', 'c'), ($1, 'd', 'd')", actor.MaxUserID)
	if id, taken := createOn(h, s, 1); id != 51 || taken != 1 {
		t.Errorf("got the id %d after %d that were taken", id, taken)
	}
}

// testGreatIDTaken: a user with a great id, and others in the way, do not use up the ids
// between them.
func testGreatIDTaken(t *testing.T) {
	h := storetest.Start(t)
	s, warnings := openWatched(h)
	h.Exec("INSERT INTO users (id, name, email_address) VALUES (1, 'a', 'a'), (2, 'b', 'b'), (1000000000, 'c', 'c')")
	if id, taken := createOn(h, s, 1); id != 3 || taken != 1 {
		t.Errorf("got the id %d after %d that were taken", id, taken)
	}
	logged := warnings()
	if len(logged) != 1 || !strings.HasSuffix(logged[0].Message, "too far") {
		t.Fatalf("the warnings are %v", logged)
	}
	if fields := logged[0].ContextMap(); fields["was"] != int64(1) || fields["is"] != int64(2) || fields["greatest"] != int64(1_000_000_000) {
		t.Errorf("the warning is about %v", fields)
	}
}

// testNextRaise: if there are users beyond the first raise, the next one goes on from there.
func testNextRaise(t *testing.T) {
	h := storetest.Start(t)
	s, _ := openWatched(h)
	h.Exec("INSERT INTO users (id, name, email_address) SELECT n * 9000000 + k, 'restored', n || ' ' || k FROM generate_series(0, 3) AS n, generate_series(1, 2) AS k")
	if id, taken := createOn(h, s, 1); id != 9000003 || taken != 1 {
		t.Errorf("got the id %d after %d that were taken", id, taken)
	}
	h.Exec("INSERT INTO users (id, name, email_address) VALUES (9000004, 'a', 'a')")
	if id, taken := createOn(h, s, 2); id != 18000003 || taken != 1 {
		t.Errorf("then got the id %d after %d that were taken", id, taken)
	}
}

// testSequenceLowered: after another program has lowered the sequence, ids that were taken
// before are drawn and used.
func testSequenceLowered(t *testing.T) {
	h := storetest.Start(t)
	s, _ := openWatched(h)
	h.Exec("INSERT INTO users (id, name, email_address) SELECT n, 'old', 'old' || n FROM generate_series(1, 1000) AS n")
	if id, _ := createOn(h, s, 1); id != 1001 {
		t.Fatalf("got the id %d", id)
	}
	h.Exec("DELETE FROM users WHERE id <= 1000")
	h.Exec("SELECT setval('users_id_seq', 10)")
	if id, err := storetest.DrawUserID(t.Context(), s); err != nil || id > 20 {
		t.Errorf("got the id %d, %v", id, err)
	}
	if id, err := storetest.DrawUserID(t.Context(), s); err != nil || id > 20 {
		t.Errorf("then got the id %d, %v", id, err)
	}
}
