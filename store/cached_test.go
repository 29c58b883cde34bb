package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/glotpod/ident/actor"
)

// onCached commits a write that decides on a cached user.
func (h *harness) onCached(cached *actor.User, operation, messageID string, a args) actor.Outcome {
	h.t.Helper()
	w := request(h.t, operation, messageID, a)
	w.Cached = cached
	o, err := commit(h.t.Context(), h, h.lease, w)
	if err != nil {
		h.t.Fatal(err)
	}
	return o
}

// TestCachedUser is about writes that decide on the cached user.
func TestCachedUser(t *testing.T) {
	t.Run("is not read", testCachedIsNotRead)
	t.Run("replay of yesterday", testCachedReplay)
	t.Run("foreign write", testCachedForeignWrite)
	t.Run("delete", testCachedDelete)
}

func testCachedIsNotRead(t *testing.T) {
	h := start(t)
	created := h.do("create", "m1", ada(1))
	// A write that reads the user fails because of this token.
	h.exec("UPDATE services SET access_token = 'unreadable'")
	version := h.one("SELECT xmin::text::bigint FROM services").(int64)
	created.After.Version[1] = uint32(version)
	patched := h.onCached(created.After, "patch", "m2", args{"user_id": created.UserID, "ops": replace("/name", "Eve")})
	if !patched.Applied || patched.After.Name != "Eve" || patched.After.GitHub.AccessToken != "token-1" {
		t.Errorf("patched: %+v", patched)
	}
	if name := h.one("SELECT name FROM users"); name != "Eve" {
		t.Errorf("the name is %q", name)
	}
}

// testCachedReplay: a request is not applied again the day after, on a cached user either.
func testCachedReplay(t *testing.T) {
	h := start(t)
	h.setClock(1, 12*time.Hour)
	created := h.do("create", "m1", ada(1))
	rename := func(name string) args { return args{"user_id": created.UserID, "ops": replace("/name", name)} }
	first := h.onCached(created.After, "patch", "m2", rename("first"))
	second := h.onCached(first.After, "patch", "m3", rename("second"))
	h.setClock(2, 12*time.Hour)
	again := h.onCached(second.After, "patch", "m2", rename("first"))
	if !same(again, first) || again.Applied {
		t.Errorf("again: %+v", again)
	}
	if u := h.get(created.UserID); u.Name != "second" {
		t.Errorf("the name is %q", u.Name)
	}
}

// testCachedForeignWrite: a write sees what another program has changed since the user was
// cached.
func testCachedForeignWrite(t *testing.T) {
	h := start(t)
	n := 0
	for name, foreign := range map[string]struct {
		sql  string     // $1 is the user's id
		want actor.Code // of a patch that tests the whole user as it is cached
	}{
		"name":            {"UPDATE users SET name = name || '!' WHERE id = $1", actor.PatchFailed},
		"the same name":   {"UPDATE users SET name = name WHERE id = $1", ""},
		"account":         {"UPDATE services SET sv_id = sv_id + 100 WHERE user_id = $1 AND sv_name = 'gh'", actor.PatchFailed},
		"account is gone": {"DELETE FROM services WHERE user_id = $1 AND sv_name = 'fb'", actor.PatchFailed},
		"user is gone":    {"WITH s AS (DELETE FROM services WHERE user_id = $1) DELETE FROM users WHERE id = $1", actor.NotFound},
		"another's key":   {"INSERT INTO users (id, name, email_address) VALUES (1000 + $1::int, '', format('wanted%s@example.org', $1::int))", actor.Conflict},
	} {
		n++
		t.Run(name, func(t *testing.T) {
			a := ada(n)
			a["facebook"] = args{"id": n, "access_token": "f"}
			created := h.do("create", "", a)
			id := created.UserID
			h.exec(foreign.sql, id)
			a["id"] = id
			email := fmt.Sprintf("wanted%d@example.org", id)
			ops := []any{args{"op": "test", "path": "", "value": a}, args{"op": "replace", "path": "/email", "value": email}}
			o := h.onCached(created.After, "patch", "", args{"user_id": id, "ops": ops})
			switch {
			case foreign.want == "" && (o.Refusal != nil || o.After.Email != email):
				t.Errorf("%+v", o)
			case foreign.want != "":
				wantCode(t, o, foreign.want)
			}
		})
	}
}

// testCachedDelete: a delete removes an account that was added since the user was cached.
func testCachedDelete(t *testing.T) {
	h := start(t)
	created := h.do("create", "m1", ada(1))
	h.exec("INSERT INTO services (user_id, sv_id, sv_name, access_token) VALUES ($1, 5, 'fb', '')", created.UserID)
	if o := h.onCached(created.After, "delete", "m2", args{"user_id": created.UserID}); !o.Applied {
		t.Errorf("%+v", o)
	}
	if rows := fmt.Sprint(h.one("SELECT count(*) FROM users"), h.one("SELECT count(*) FROM services")); rows != "0 0" {
		t.Errorf("users and services: %s", rows)
	}
}
