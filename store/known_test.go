package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/glotpod/ident/actor"
)

// knowing commits a write to a user who is known as given.
func (h *harness) knowing(known *actor.User, operation, messageID string, a args) actor.Outcome {
	h.t.Helper()
	w := request(h.t, operation, messageID, a)
	w.Cached = known
	o, err := commit(h.t.Context(), h, h.lease, w)
	if err != nil {
		h.t.Fatal(err)
	}
	return o
}

func TestAWriteToAUserWhoIsKnownReadsNoUser(t *testing.T) {
	h := start(t)
	created := h.do("create", "m1", ada(1))
	// A write that has to read the user fails over this token.
	h.exec("UPDATE services SET access_token = 'unreadable'")
	known := h.one("SELECT xmin::text::bigint FROM services").(int64)
	created.After.Version[1] = uint32(known)
	patched := h.knowing(created.After, "patch", "m2", args{"user_id": created.UserID, "ops": replace("/name", "Eve")})
	if !patched.Applied || patched.After.Name != "Eve" || patched.After.GitHub.AccessToken != "token-1" {
		t.Errorf("patched: %+v", patched)
	}
	if name := h.one("SELECT name FROM users"); name != "Eve" {
		t.Errorf("the name is %q", name)
	}
}

func TestARequestOfYesterdayIsNotAppliedAgainThoughItsUserIsKnown(t *testing.T) {
	h := start(t)
	h.setClock(1, 12*time.Hour)
	created := h.do("create", "m1", ada(1))
	rename := func(name string) args { return args{"user_id": created.UserID, "ops": replace("/name", name)} }
	first := h.knowing(created.After, "patch", "m2", rename("first"))
	second := h.knowing(first.After, "patch", "m3", rename("second"))
	h.setClock(2, 12*time.Hour)
	again := h.knowing(second.After, "patch", "m2", rename("first"))
	if !same(again, first) || again.Applied {
		t.Errorf("again: %+v", again)
	}
	if u := h.get(created.UserID); u.Name != "second" {
		t.Errorf("the name is %q", u.Name)
	}
}

func TestWhatAnotherProgramHasWrittenIsSeenByWritesToUsersWhoAreKnown(t *testing.T) {
	for name, foreign := range map[string]struct {
		sql  string
		want actor.Code // of a patch that tests the whole user as known
	}{
		"name":            {"UPDATE users SET name = name || '!'", actor.PatchFailed},
		"the same name":   {"UPDATE users SET name = name", ""},
		"account":         {"UPDATE services SET sv_id = sv_id + 100 WHERE sv_name = 'gh'", actor.PatchFailed},
		"account is gone": {"DELETE FROM services WHERE sv_name = 'fb'", actor.PatchFailed},
		"user is gone":    {"DELETE FROM services; DELETE FROM users", actor.NotFound},
		"another's key":   {"INSERT INTO users (id, name, email_address) VALUES (1000, '', 'wanted@example.org')", actor.Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			a := ada(1)
			a["facebook"] = args{"id": 1, "access_token": "f"}
			created := h.do("create", "m1", a)
			if _, err := h.db.PgConn().Exec(t.Context(), foreign.sql).ReadAll(); err != nil {
				t.Fatal(err)
			}
			a["id"] = created.UserID
			ops := []any{args{"op": "test", "path": "", "value": a}, args{"op": "replace", "path": "/email", "value": "wanted@example.org"}}
			o := h.knowing(created.After, "patch", "m2", args{"user_id": created.UserID, "ops": ops})
			switch {
			case foreign.want == "" && (o.Refusal != nil || o.After.Email != "wanted@example.org"):
				t.Errorf("%+v", o)
			case foreign.want != "":
				wantCode(t, o, foreign.want)
			}
		})
	}
}

func TestADeleteOfAKnownUserLeavesNothingAlsoWhereAnAccountWasAdded(t *testing.T) {
	h := start(t)
	created := h.do("create", "m1", ada(1))
	h.exec("INSERT INTO services (user_id, sv_id, sv_name, access_token) VALUES ($1, 5, 'fb', '')", created.UserID)
	if o := h.knowing(created.After, "delete", "m2", args{"user_id": created.UserID}); !o.Applied {
		t.Errorf("%+v", o)
	}
	if rows := fmt.Sprint(h.one("SELECT count(*) FROM users"), h.one("SELECT count(*) FROM services")); rows != "0 0" {
		t.Errorf("users and services: %s", rows)
	}
}
