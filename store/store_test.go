package store_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/commit"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

func TestNewUserID(t *testing.T) {
	t.Run("concurrent_calls_get_different_ids", testNewUserIDConcurrentCallsGetDifferentIds)
	t.Run("create_reserves_the_next_id", testNewUserIDCreateReservesTheNextId)
	t.Run("conflict_draws_no_id", testNewUserIDConflict)
	t.Run("replay_draws_no_id", testNewUserIDReplay)
	t.Run("fails_without_a_sequence", testNewUserIDWithoutASequence)
}

// lastDrawn returns the last user id that was drawn.
func lastDrawn(h *storetest.Harness) int64 {
	return h.Value("SELECT last_value FROM users_id_seq").(int64)
}

// decide has a create decided that needs no id.
func decide(h *storetest.Harness, messageID string, a storetest.Args) actor.Outcome {
	h.T.Helper()
	before := lastDrawn(h)
	id, decided, err := h.NewUserID(h.T.Context(), storetest.Request(h.T, "create", messageID, a))
	if id != 0 || decided == nil || err != nil {
		h.T.Fatalf("got the id %d, %+v, %v", id, decided, err)
	}
	if after := lastDrawn(h); after != before {
		h.T.Errorf("ids %d to %d were drawn", before+1, after)
	}
	return *decided
}

func testNewUserIDConflict(t *testing.T) {
	h := storetest.Start(t)
	h.CreateUser(1)
	both := func(n int) storetest.Args {
		a := storetest.UserArgs(n)
		a["facebook"] = storetest.Args{"id": 1, "access_token": ""}
		return a
	}
	if o := h.Write("create", "", both(2)); o.Refusal != nil {
		t.Fatal(o.Refusal)
	}
	email := storetest.UserArgs(3)
	email["email"] = storetest.UserArgs(1)["email"]
	for name, a := range map[string]storetest.Args{"email": email, "github": storetest.UserArgs(1), "facebook": both(4)} {
		o := decide(h, name, a)
		storetest.WantCode(h.T, o, actor.Conflict)
		// The refusal is recorded, also for the actor that gets the same request.
		if again := h.Write("create", name, a); !storetest.SameReply(again, o) {
			t.Errorf("%s: again %+v, first %+v", name, again, o)
		}
		storetest.WantCode(t, decide(h, name, storetest.UserArgs(5)), actor.BadRequest)
		storetest.WantCode(t, decide(h, "", a), actor.Conflict) // it has no request id
	}
	// Nothing is decided if the user may be created.
	id, decided, err := h.NewUserID(t.Context(), storetest.Request(t, "create", "free", storetest.UserArgs(6)))
	if id != lastDrawn(h) || decided != nil || err != nil {
		t.Errorf("got the id %d, %+v, %v", id, decided, err)
	}
}

func testNewUserIDReplay(t *testing.T) {
	h := storetest.Start(t)
	first := h.Write("create", "m1", storetest.UserArgs(1))
	for range 3 {
		if o := decide(h, "m1", storetest.UserArgs(1)); !storetest.SameReply(o, first) || o.Applied {
			t.Errorf("decided %+v, first %+v", o, first)
		}
	}
	storetest.WantCode(t, decide(h, "m1", storetest.UserArgs(2)), actor.BadRequest)

	// The record is of another request with the same id, which a caller has used again.
	again := storetest.Request(t, "create", "m1", storetest.UserArgs(3))
	again.FirstReceived = time.Now()
	h.Exec("UPDATE ident_log SET at = now() - interval '11 minutes'")
	id, decided, err := h.NewUserID(t.Context(), again)
	if id != lastDrawn(h) || decided != nil || err != nil {
		t.Fatalf("got the id %d, %+v, %v", id, decided, err)
	}
	// The first request may be delivered again, until the other one is decided.
	if h.Value("SELECT count(*) = 0 FROM ident_log WHERE at < now()") == true {
		t.Error("the record is gone before there is another one")
	}
	again.UserID = id
	if o, err := storetest.Commit(t.Context(), h, h.Lease, again); err != nil || !o.Applied {
		t.Errorf("%+v, %v", o, err)
	}

	// The record may be removed after it was found.
	w := storetest.Request(t, "create", "m2", storetest.UserArgs(2)).Refused(commit.NoReplay)
	o, err := storetest.Commit(t.Context(), h, partition.Lease{}, w)
	if err != nil || o.Refusal != commit.NoReplay {
		t.Fatalf("%+v, %v", o, err)
	}
	if o := h.Write("create", "m2", storetest.UserArgs(2)); o.Refusal != nil {
		t.Error(o.Refusal)
	}
}

func testNewUserIDWithoutASequence(t *testing.T) {
	h := storetest.Start(t)
	h.Exec("ALTER SEQUENCE users_id_seq OWNED BY NONE")
	if id, err := storetest.DrawUserID(t.Context(), h.Store); err == nil {
		t.Errorf("got the id %d", id)
	}
	h.Exec("ALTER SEQUENCE users_id_seq OWNED BY users.id")
	h.CreateUser(1)
}

func testNewUserIDConcurrentCallsGetDifferentIds(t *testing.T) {
	h := storetest.Start(t)
	const many = 500
	ids := make([]int64, many)
	var drawing sync.WaitGroup
	for i := range ids {
		drawing.Go(func() {
			var err error
			if ids[i], err = storetest.DrawUserID(t.Context(), h.Store); err != nil {
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

func testNewUserIDCreateReservesTheNextId(t *testing.T) {
	h := storetest.Start(t)
	reserved := int64(0)
	for n := 1; reserved == 0; n++ { // a create that takes long reserves an id that expires soon
		h.CreateUser(n)
		if reserved = h.ReservedUserID(); n == 100 {
			t.Fatal("no create has reserved another id")
		}
	}
	next, err := storetest.DrawUserID(t.Context(), h.Store)
	if err != nil || next == reserved || h.User(reserved) != nil || h.ReservedUserID() != 0 {
		t.Errorf("the reserved id is %d, the next one %d, %v", reserved, next, err)
	}
	h.ReturnUserID(reserved)
	if again := h.ReservedUserID(); again != reserved {
		t.Errorf("the returned id is %d, and %d is reserved", reserved, again)
	}
}

func TestReplay(t *testing.T) {
	t.Run("applied_once", testReplayAppliedOnce)
	t.Run("refusal_is_kept", testReplayRefusalIsKept)
	t.Run("other_request_with_the_same_id", testReplayOtherRequestWithTheSameId)
	t.Run("concurrent_requests_are_one", testReplayConcurrentRequestsAreOne)
}

func testReplayAppliedOnce(t *testing.T) {
	h := storetest.Start(t)
	first := h.Write("create", "m1", storetest.UserArgs(1))
	for range 3 {
		if again := h.Write("create", "m1", storetest.UserArgs(1)); !storetest.SameReply(again, first) {
			t.Errorf("again: %+v, first %+v", again, first)
		}
	}
	patch := storetest.Args{"user_id": first.UserID, "ops": []any{storetest.Args{"op": "add", "path": "/picture_url", "value": "p"}, storetest.Args{"op": "test", "path": "/name", "value": "Ada 1"}}}
	h.Write("patch", "m2", patch)
	h.Write("patch", "m3", storetest.Args{"user_id": first.UserID, "ops": storetest.Replace("/name", "Eve")})
	if o := h.Write("patch", "m2", patch); o.Refusal != nil {
		t.Errorf("a replayed patch was decided again: %v", o.Refusal)
	}
	if n := h.Value("SELECT count(*) FROM users"); n != int64(1) {
		t.Errorf("%v users", n)
	}
	if u := h.User(first.UserID); u.Name != "Eve" {
		t.Errorf("a replayed patch changed the name to %q", u.Name)
	}
	if n := h.Value("SELECT count(*) FROM ident_log WHERE position IS NOT NULL"); n != int64(3) {
		t.Errorf("%v notifications, want 3", n)
	}
}

func testReplayRefusalIsKept(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	storetest.WantCode(t, h.Write("create", "m1", storetest.UserArgs(1)), actor.Conflict)
	storetest.WantCode(t, h.Write("patch", "m2", storetest.Args{"user_id": 99, "ops": []any{}}), actor.NotFound)
	storetest.WantCode(t, h.Write("patch", "m3", storetest.Args{"user_id": id, "ops": storetest.Replace("/picture_url", "x")}), actor.PatchFailed)
	storetest.WantCode(t, h.Write("patch", "m4", storetest.Args{"user_id": id, "ops": 1}), actor.BadRequest)
	h.Exec("DELETE FROM services")
	h.Exec("DELETE FROM users")
	h.Exec("INSERT INTO users (id, name, email_address) VALUES (99, '', '')")
	storetest.WantCode(t, h.Write("create", "m1", storetest.UserArgs(1)), actor.Conflict)
	storetest.WantCode(t, h.Write("patch", "m2", storetest.Args{"user_id": 99, "ops": []any{}}), actor.NotFound)
	storetest.WantCode(t, h.Write("patch", "m3", storetest.Args{"user_id": id, "ops": storetest.Replace("/picture_url", "x")}), actor.PatchFailed)
	storetest.WantCode(t, h.Write("patch", "m4", storetest.Args{"user_id": id, "ops": 1}), actor.BadRequest)
}

func testReplayOtherRequestWithTheSameId(t *testing.T) {
	h := storetest.Start(t)
	id := h.Write("create", "m1", storetest.UserArgs(1)).UserID
	storetest.WantCode(t, h.Write("create", "m1", storetest.UserArgs(2)), actor.BadRequest)
	storetest.WantCode(t, h.Write("delete", "m1", storetest.Args{"user_id": id}), actor.BadRequest)
	if h.User(id) == nil {
		t.Error("the user is gone")
	}
}

func testReplayConcurrentRequestsAreOne(t *testing.T) {
	h := storetest.Start(t)
	other := h.OpenStore()
	var wg sync.WaitGroup
	outcomes := make([]actor.Outcome, 20)
	for i := range outcomes {
		w := storetest.Request(t, "create", "same", storetest.UserArgs(1))
		w.UserID = int64(i + 1)
		s := []*store.Store{h.Store, other}[i%2]
		wg.Go(func() {
			var err error
			if outcomes[i], err = storetest.Commit(t.Context(), s, h.Lease, w); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, o := range outcomes {
		if !storetest.SameReply(o, outcomes[0]) || o.Refusal != nil {
			t.Errorf("outcomes %+v and %+v", o, outcomes[0])
		}
	}
	if n := h.Value("SELECT count(*) FROM users"); n != int64(1) {
		t.Errorf("%v users", n)
	}
}

func TestConflicts(t *testing.T) {
	t.Run("one_winner_per_email", testConflictsOneWinnerPerEmail)
	t.Run("service_id_of_another_user", testConflictsServiceIdOfAnotherUser)
	t.Run("foreign_writes_are_not_overwritten", testConflictsForeignWritesAreNotOverwritten)
	t.Run("failing_write_does_not_affect_its_group", testConflictsFailingWriteDoesNotAffectItsGroup)
}

func testConflictsOneWinnerPerEmail(t *testing.T) {
	h := storetest.Start(t)
	other := h.OpenStore()
	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := map[string]int{}
	for i := range 40 {
		a := storetest.UserArgs(i)
		a["email"] = "one@example.org"
		w := storetest.Request(t, "create", fmt.Sprint("m", i), a)
		w.UserID = int64(i + 1)
		s := []*store.Store{h.Store, other}[i%2]
		wg.Go(func() {
			o, err := storetest.Commit(t.Context(), s, h.Lease, w)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if o.Refusal == nil {
				codes["done"]++
			} else {
				codes[string(o.Refusal.Code)]++
			}
		})
	}
	wg.Wait()
	if codes["done"] != 1 || codes["conflict"] != 39 {
		t.Errorf("outcomes %v", codes)
	}
	if n := h.Value("SELECT count(*) FROM services"); n != int64(1) {
		t.Errorf("a refused create left services: %v", n)
	}
}

func testConflictsServiceIdOfAnotherUser(t *testing.T) {
	h := storetest.Start(t)
	a, b := h.CreateUser(1), h.CreateUser(2)
	storetest.WantCode(t, h.Write("patch", "", storetest.Args{"user_id": a, "ops": []any{
		storetest.Args{"op": "replace", "path": "/name", "value": "changed"},
		storetest.Args{"op": "replace", "path": "/github/id", "value": 2}}}), actor.Conflict)
	storetest.WantCode(t, h.Write("patch", "", storetest.Args{"user_id": a, "ops": storetest.Replace("/email", "ada2@example.org")}), actor.Conflict)
	if u := h.User(a); u.Name != "Ada 1" || u.GitHub.ID != 1 {
		t.Errorf("%+v", u)
	}
	// The same id at the other service is free.
	if o := h.Write("patch", "", storetest.Args{"user_id": a, "ops": []any{storetest.Args{"op": "add", "path": "/facebook", "value": storetest.Args{"id": 2, "access_token": "t"}}}}); o.Refusal != nil {
		t.Error(o.Refusal)
	}
	if u := h.User(b); u.GitHub.ID != 2 || h.User(a).Facebook.ID != 2 {
		t.Errorf("%+v", u)
	}
}

func testConflictsForeignWritesAreNotOverwritten(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				h.Write("patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", fmt.Sprint("name ", i))})
			}
		}
	})
	foreign := h.Connect(t)
	for i := range 100 {
		picture := fmt.Sprint("picture ", i)
		if _, err := foreign.Exec(t.Context(), "UPDATE users SET picture_url = $1 WHERE id = $2", picture, id); err != nil {
			t.Fatal(err)
		}
		if _, err := foreign.Exec(t.Context(), "UPDATE services SET sv_id = $1 WHERE user_id = $2", 1000+i, id); err != nil {
			t.Fatal(err)
		}
		if u := h.User(id); *u.PictureURL != picture || u.GitHub.ID != int64(1000+i) {
			t.Fatalf("the foreign write %d was overwritten: %+v", i, u)
		}
	}
	close(stop)
	wg.Wait()
}

func TestDelete(t *testing.T) {
	t.Run("also_if_no_key_opens_its_token", testDeleteAlsoIfNoKeyOpensItsToken)
}

func testDeleteAlsoIfNoKeyOpensItsToken(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	h.Exec("UPDATE services SET access_token = 'garbage'")
	if _, err := h.Find(t.Context(), &actor.Lookup{UserID: &id}); err == nil {
		t.Error("a token that no key decrypts was read")
	}
	w := storetest.Request(t, "patch", "m", storetest.Args{"user_id": id, "ops": []any{}})
	if _, err := storetest.Commit(t.Context(), h, h.Lease, w); err == nil {
		t.Error("a patch saw a token that no key decrypts")
	}
	if n := h.Value("SELECT count(*) FROM ident_log WHERE code = 'invocation_failed'"); n != int64(0) {
		t.Error("a failure was recorded as an outcome")
	}
	if o := h.Write("delete", "", storetest.Args{"user_id": id}); o.Refusal != nil || h.User(id) != nil {
		t.Errorf("%+v", o)
	}
	if n := h.Value("SELECT count(*) FROM services"); n != int64(0) {
		t.Errorf("%v services left", n)
	}
}

func testConflictsFailingWriteDoesNotAffectItsGroup(t *testing.T) {
	h := storetest.Start(t)
	h.Exec(`CREATE FUNCTION sour() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.name = 'sour' THEN RAISE EXCEPTION 'sour'; END IF; RETURN NEW; END $$`)
	h.Exec("CREATE TRIGGER sour BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION sour()")
	var wg sync.WaitGroup
	for i := range 50 {
		a := storetest.UserArgs(i)
		if i == 25 {
			a["name"] = "sour"
		}
		w := storetest.Request(t, "create", fmt.Sprint("m", i), a)
		w.UserID = int64(i + 1)
		wg.Go(func() {
			if _, err := storetest.Commit(t.Context(), h, h.Lease, w); (err != nil) != (i == 25) {
				t.Errorf("create %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := h.Value("SELECT count(*) FROM users"); n != int64(49) {
		t.Errorf("%v users", n)
	}
}

func TestIdleTransaction(t *testing.T) {
	t.Run("is_terminated_and_its_outcome_unknown", testIdleTransactionIsTerminatedAndItsOutcomeUnknown)
}

func testIdleTransactionIsTerminatedAndItsOutcomeUnknown(t *testing.T) {
	h := storetest.Start(t)
	conn, err := store.Connect(t.Context(), h.Options)
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
	tx := storetest.Begin(t, conn)
	h.WaitUntil("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", conn.PgConn().PID())
	if err := tx.Commit(t.Context()); err == nil || !store.IsUnreachable(err) {
		t.Errorf("%v", err)
	}
}
