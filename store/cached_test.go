package store_test

import (
	"fmt"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestCachedUser is about writes that decide on the cached user.
func TestCachedUser(t *testing.T) {
	t.Run("is not read", testCachedIsNotRead)
	t.Run("replay of yesterday", testCachedReplay)
	t.Run("foreign write", testCachedForeignWrite)
	t.Run("delete", testCachedDelete)
}

func testCachedIsNotRead(t *testing.T) {
	h := storetest.Start(t)
	created := h.Write("create", "m1", storetest.UserArgs(1))
	// A write that reads the user fails because of this token.
	h.Exec("UPDATE services SET access_token = 'unreadable'")
	version := h.Value("SELECT xmin::text::bigint FROM services").(int64)
	created.After.Version.Rows[1] = uint32(version)
	patched := h.WriteCached(created.After, "patch", "m2", storetest.Args{"user_id": created.UserID, "ops": storetest.Replace("/name", "Eve")})
	if !patched.Applied || patched.After.Name != "Eve" || patched.After.GitHub.AccessToken != "token-1" {
		t.Errorf("patched: %+v", patched)
	}
	if name := h.Value("SELECT name FROM users"); name != "Eve" {
		t.Errorf("the name is %q", name)
	}
}

// testCachedReplay: a request is not applied again the day after, on a cached user either.
func testCachedReplay(t *testing.T) {
	h := storetest.Start(t)
	created := h.Write("create", "m1", storetest.UserArgs(1))
	rename := func(name string) storetest.Args {
		return storetest.Args{"user_id": created.UserID, "ops": storetest.Replace("/name", name)}
	}
	first := h.WriteCached(created.After, "patch", "m2", rename("first"))
	second := h.WriteCached(first.After, "patch", "m3", rename("second"))
	h.Exec("UPDATE ident_log SET at = at - interval '1 day'")
	again := h.WriteCached(second.After, "patch", "m2", rename("first"))
	if !storetest.SameReply(again, first) || again.Applied {
		t.Errorf("again: %+v", again)
	}
	if u := h.User(created.UserID); u.Name != "second" {
		t.Errorf("the name is %q", u.Name)
	}
}

// testCachedForeignWrite: a write sees what another program has changed since the user was
// cached.
func testCachedForeignWrite(t *testing.T) {
	h := storetest.Start(t)
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
			a := storetest.UserArgs(n)
			a["facebook"] = storetest.Args{"id": n, "access_token": "f"}
			created := h.Write("create", "", a)
			id := created.UserID
			h.Exec(foreign.sql, id)
			a["id"] = id
			email := fmt.Sprintf("wanted%d@example.org", id)
			ops := []any{storetest.Args{"op": "test", "path": "", "value": a}, storetest.Args{"op": "replace", "path": "/email", "value": email}}
			o := h.WriteCached(created.After, "patch", "", storetest.Args{"user_id": id, "ops": ops})
			switch {
			case foreign.want == "" && (o.Refusal != nil || o.After.Email != email):
				t.Errorf("%+v", o)
			case foreign.want != "":
				storetest.WantCode(t, o, foreign.want)
			}
		})
	}
}

// testCachedDelete: a delete removes an account that was added since the user was cached.
func testCachedDelete(t *testing.T) {
	h := storetest.Start(t)
	created := h.Write("create", "m1", storetest.UserArgs(1))
	h.Exec("INSERT INTO services (user_id, sv_id, sv_name, access_token) VALUES ($1, 5, 'fb', '')", created.UserID)
	if o := h.WriteCached(created.After, "delete", "m2", storetest.Args{"user_id": created.UserID}); !o.Applied {
		t.Errorf("%+v", o)
	}
	if rows := fmt.Sprint(h.Value("SELECT count(*) FROM users"), h.Value("SELECT count(*) FROM services")); rows != "0 0" {
		t.Errorf("users and services: %s", rows)
	}
}
