package store_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store"
)

func TestNewUserID(t *testing.T) {
	t.Run("concurrent_calls_get_different_ids", testNewUserIDConcurrentCallsGetDifferentIds)
	t.Run("create_reserves_the_next_id", testNewUserIDCreateReservesTheNextId)
}

func testNewUserIDConcurrentCallsGetDifferentIds(t *testing.T) {
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

func testNewUserIDCreateReservesTheNextId(t *testing.T) {
	h := start(t)
	reserved := int64(0)
	for n := 1; reserved == 0; n++ { // a create that takes long reserves an id that expires at once
		h.create(n)
		if reserved = h.ReservedUserID(); n == 100 {
			t.Fatal("no create has reserved another id")
		}
	}
	next, err := h.NewUserID(t.Context())
	if err != nil || next == reserved || h.get(reserved) != nil || h.ReservedUserID() != 0 {
		t.Errorf("the reserved id is %d, the next one %d, %v", reserved, next, err)
	}
}

func TestReplay(t *testing.T) {
	t.Run("applied_once", testReplayAppliedOnce)
	t.Run("refusal_is_kept", testReplayRefusalIsKept)
	t.Run("other_request_with_the_same_id", testReplayOtherRequestWithTheSameId)
	t.Run("concurrent_requests_are_one", testReplayConcurrentRequestsAreOne)
}

func testReplayAppliedOnce(t *testing.T) {
	h := start(t)
	first := h.do("create", "m1", ada(1))
	for range 3 {
		if again := h.do("create", "m1", ada(1)); !same(again, first) {
			t.Errorf("again: %+v, first %+v", again, first)
		}
	}
	patch := args{"user_id": first.UserID, "ops": []any{args{"op": "add", "path": "/picture_url", "value": "p"}, args{"op": "test", "path": "/name", "value": "Ada 1"}}}
	h.do("patch", "m2", patch)
	h.do("patch", "m3", args{"user_id": first.UserID, "ops": replace("/name", "Eve")})
	if o := h.do("patch", "m2", patch); o.Refusal != nil {
		t.Errorf("a replayed patch was decided again: %v", o.Refusal)
	}
	if n := h.one("SELECT count(*) FROM users"); n != int64(1) {
		t.Errorf("%v users", n)
	}
	if u := h.get(first.UserID); u.Name != "Eve" {
		t.Errorf("a replayed patch changed the name to %q", u.Name)
	}
	if n := h.one("SELECT count(*) FROM ident_outbox"); n != int64(3) {
		t.Errorf("%v notifications, want 3", n)
	}
}

func testReplayRefusalIsKept(t *testing.T) {
	h := start(t)
	id := h.create(1)
	wantCode(t, h.do("create", "m1", ada(1)), actor.Conflict)
	wantCode(t, h.do("patch", "m2", args{"user_id": 99, "ops": []any{}}), actor.NotFound)
	wantCode(t, h.do("patch", "m3", args{"user_id": id, "ops": replace("/picture_url", "x")}), actor.PatchFailed)
	wantCode(t, h.do("patch", "m4", args{"user_id": id, "ops": 1}), actor.BadRequest)
	h.exec("DELETE FROM services")
	h.exec("DELETE FROM users")
	h.exec("INSERT INTO users (id, name, email_address) VALUES (99, '', '')")
	wantCode(t, h.do("create", "m1", ada(1)), actor.Conflict)
	wantCode(t, h.do("patch", "m2", args{"user_id": 99, "ops": []any{}}), actor.NotFound)
	wantCode(t, h.do("patch", "m3", args{"user_id": id, "ops": replace("/picture_url", "x")}), actor.PatchFailed)
	wantCode(t, h.do("patch", "m4", args{"user_id": id, "ops": 1}), actor.BadRequest)
}

func testReplayOtherRequestWithTheSameId(t *testing.T) {
	h := start(t)
	id := h.do("create", "m1", ada(1)).UserID
	wantCode(t, h.do("create", "m1", ada(2)), actor.BadRequest)
	wantCode(t, h.do("delete", "m1", args{"user_id": id}), actor.BadRequest)
	if h.get(id) == nil {
		t.Error("the user is gone")
	}
}

func testReplayConcurrentRequestsAreOne(t *testing.T) {
	h := start(t)
	other := h.open()
	var wg sync.WaitGroup
	outcomes := make([]actor.Outcome, 20)
	for i := range outcomes {
		w := request(t, "create", "same", ada(1))
		w.UserID = int64(i + 1)
		s := []*store.Store{h.Store, other}[i%2]
		wg.Go(func() {
			var err error
			if outcomes[i], err = commit(t.Context(), s, h.lease, w); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, o := range outcomes {
		if !same(o, outcomes[0]) || o.Refusal != nil {
			t.Errorf("outcomes %+v and %+v", o, outcomes[0])
		}
	}
	if n := h.one("SELECT count(*) FROM users"); n != int64(1) {
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
	h := start(t)
	other := h.open()
	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := map[string]int{}
	for i := range 40 {
		a := ada(i)
		a["email"] = "one@example.org"
		w := request(t, "create", fmt.Sprint("m", i), a)
		w.UserID = int64(i + 1)
		s := []*store.Store{h.Store, other}[i%2]
		wg.Go(func() {
			o, err := commit(t.Context(), s, h.lease, w)
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
	if n := h.one("SELECT count(*) FROM services"); n != int64(1) {
		t.Errorf("a refused create left services: %v", n)
	}
}

func testConflictsServiceIdOfAnotherUser(t *testing.T) {
	h := start(t)
	a, b := h.create(1), h.create(2)
	wantCode(t, h.do("patch", "", args{"user_id": a, "ops": []any{
		args{"op": "replace", "path": "/name", "value": "changed"},
		args{"op": "replace", "path": "/github/id", "value": 2}}}), actor.Conflict)
	wantCode(t, h.do("patch", "", args{"user_id": a, "ops": replace("/email", "ada2@example.org")}), actor.Conflict)
	if u := h.get(a); u.Name != "Ada 1" || u.GitHub.ID != 1 {
		t.Errorf("%+v", u)
	}
	// The same id at the other service is free.
	if o := h.do("patch", "", args{"user_id": a, "ops": []any{args{"op": "add", "path": "/facebook", "value": args{"id": 2, "access_token": "t"}}}}); o.Refusal != nil {
		t.Error(o.Refusal)
	}
	if u := h.get(b); u.GitHub.ID != 2 || h.get(a).Facebook.ID != 2 {
		t.Errorf("%+v", u)
	}
}

func testConflictsForeignWritesAreNotOverwritten(t *testing.T) {
	h := start(t)
	id := h.create(1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				h.do("patch", "", args{"user_id": id, "ops": replace("/name", fmt.Sprint("name ", i))})
			}
		}
	})
	foreign := connect(t, h.db.Config().ConnString())
	for i := range 100 {
		picture := fmt.Sprint("picture ", i)
		if _, err := foreign.Exec(t.Context(), "UPDATE users SET picture_url = $1 WHERE id = $2", picture, id); err != nil {
			t.Fatal(err)
		}
		if _, err := foreign.Exec(t.Context(), "UPDATE services SET sv_id = $1 WHERE user_id = $2", 1000+i, id); err != nil {
			t.Fatal(err)
		}
		if u := h.get(id); *u.PictureURL != picture || u.GitHub.ID != int64(1000+i) {
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
	h := start(t)
	id := h.create(1)
	h.exec("UPDATE services SET access_token = 'garbage'")
	if _, err := h.Find(t.Context(), &actor.Lookup{UserID: &id}); err == nil {
		t.Error("a token that no key opens was read")
	}
	w := request(t, "patch", "m", args{"user_id": id, "ops": []any{}})
	if _, err := commit(t.Context(), h, h.lease, w); err == nil {
		t.Error("a patch saw a token that no key opens")
	}
	if n := h.one("SELECT count(*) FROM ident_requests WHERE code = 'invocation_failed'"); n != int64(0) {
		t.Error("a failure was recorded as an outcome")
	}
	if o := h.do("delete", "", args{"user_id": id}); o.Refusal != nil || h.get(id) != nil {
		t.Errorf("%+v", o)
	}
	if n := h.one("SELECT count(*) FROM services"); n != int64(0) {
		t.Errorf("%v services left", n)
	}
}

func testConflictsFailingWriteDoesNotAffectItsGroup(t *testing.T) {
	h := start(t)
	h.exec(`CREATE FUNCTION sour() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.name = 'sour' THEN RAISE EXCEPTION 'sour'; END IF; RETURN NEW; END $$`)
	h.exec("CREATE TRIGGER sour BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION sour()")
	var wg sync.WaitGroup
	for i := range 50 {
		a := ada(i)
		if i == 25 {
			a["name"] = "sour"
		}
		w := request(t, "create", fmt.Sprint("m", i), a)
		w.UserID = int64(i + 1)
		wg.Go(func() {
			if _, err := commit(t.Context(), h, h.lease, w); (err != nil) != (i == 25) {
				t.Errorf("create %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := h.one("SELECT count(*) FROM users"); n != int64(49) {
		t.Errorf("%v users", n)
	}
}

func TestIdleTransaction(t *testing.T) {
	t.Run("is_terminated_and_its_outcome_unknown", testIdleTransactionIsTerminatedAndItsOutcomeUnknown)
}

func testIdleTransactionIsTerminatedAndItsOutcomeUnknown(t *testing.T) {
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
