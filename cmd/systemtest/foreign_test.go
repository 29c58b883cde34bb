package systemtest

import (
	"fmt"
	"testing"
)

func TestForeignWritesAreSeenAtOnceAfterTheFirst(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	s.foreignWritesAreHeard(t, c)
	for range 5 {
		ours, theirs := c.create(t, newUser()), s.insertUser(t, newUser("github", "facebook"))
		c.call(t, "get", dict{"user_id": theirs["id"]}).is(t, theirs)
		c.call(t, "create", newUserOf(theirs)).refused(t, "conflict")
		c.call(t, "patch", patchOf(ours, op("replace", "/github/id", theirs["github"].(dict)["id"]))).refused(t, "conflict")
		s.exec(t, "UPDATE users SET name = 's3cret theirs', email_address = email_address || '.new' WHERE id = $1", ours["id"])
		ours["name"], ours["email"] = "s3cret theirs", ours["email"].(string)+".new"
		c.call(t, "get", dict{"user_id": ours["id"]}).is(t, ours)
		s.exec(t, "DELETE FROM services WHERE user_id = $1", theirs["id"])
		s.exec(t, "DELETE FROM users WHERE id = $1", theirs["id"])
		c.call(t, "get", dict{"user_id": theirs["id"]}).refused(t, "not_found")
		c.call(t, "patch", patchOf(theirs)).refused(t, "not_found")
		c.create(t, changed(theirs, dict{"id": nil}))
	}
}

// A patch that follows another one at once applies to what somebody else has
// written in between.
func TestForeignWritesAreNotOverwritten(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	key := s.settings["database.encryption_key"]
	u := c.create(t, newUser("github", "facebook"))
	for i := range 10 {
		ours, theirs := fmt.Sprintf("s3cret ours %d", i), fmt.Sprintf("s3cret theirs %d", i)
		c.call(t, "patch", patchOf(u, op("add", "/picture_url", ours), op("replace", "/facebook/access_token", ours))).result(t)
		s.exec(t, "UPDATE users SET name = $1 WHERE id = $2", theirs, u["id"])
		s.exec(t, "UPDATE services SET sv_id = $1, access_token = $2 WHERE user_id = $3 AND sv_name = 'gh'", i, seal(t, key, theirs), u["id"])
		c.call(t, "patch", patchOf(u, op("test", "/name", theirs), op("replace", "/facebook/id", 1000+i))).result(t)
		want := changed(u, dict{"name": theirs, "picture_url": ours,
			"github":   dict{"id": int64(i), "access_token": theirs},
			"facebook": dict{"id": int64(1000 + i), "access_token": ours},
		})
		c.call(t, "get", dict{"user_id": u["id"]}).is(t, want)
	}
}

// While both write as fast as they can, each to its own fields of one user, none
// loses a write.
func TestWritesBesideForeignOnesAllLast(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	key := s.settings["database.encryption_key"]
	u := c.create(t, newUser("github", "facebook"))
	const rounds = 100
	var sent []*message
	for i := range rounds {
		// Each of ours needs the one before it to have lasted.
		ops := list{op("replace", "/facebook/id", 5000+i+1), op("add", "/picture_url", fmt.Sprint("s3cret ", i+1))}
		if i > 0 {
			ops = append(list{op("test", "/facebook/id", 5000+i), op("test", "/picture_url", fmt.Sprint("s3cret ", i))}, ops...)
		}
		m := c.request("patch", patchOf(u, ops...))
		c.send(t, m)
		sent = append(sent, m)
	}
	s.exec(t, "UPDATE users SET name = '0'")
	s.exec(t, "UPDATE services SET sv_id = 0 WHERE sv_name = 'gh'")
	for i := range rounds {
		// Each of theirs as well.
		for _, sql := range []string{
			"UPDATE users SET name = $1::int::text WHERE name = ($1::int - 1)::text",
			"UPDATE services SET sv_id = $1 WHERE sv_name = 'gh' AND sv_id = $1 - 1",
		} {
			tag, err := s.db.Exec(t.Context(), sql, i+1)
			if err != nil || tag.RowsAffected() != 1 {
				t.Fatalf("%s (%d): %v, %v", sql, i+1, tag, err)
			}
		}
	}
	for _, m := range sent {
		c.await(t, m).result(t)
	}
	s.exec(t, "UPDATE services SET access_token = $1 WHERE sv_name = 'gh'", seal(t, key, "s3cret"))
	c.call(t, "get", dict{"user_id": u["id"]}).is(t, dict{
		"id": u["id"], "name": fmt.Sprint(rounds), "email": u["email"], "picture_url": fmt.Sprint("s3cret ", rounds),
		"github":   dict{"id": rounds, "access_token": "s3cret"},
		"facebook": dict{"id": 5000 + rounds, "access_token": u["facebook"].(dict)["access_token"]},
	})
}

// What another transaction has not committed yet is waited for.
func TestUncommittedForeignWritesAreWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	u := c.create(t, newUser())
	wanted := newUser()
	waiting := func() {
		t.Helper()
		eventually(t, "the service waits for a lock", func() bool {
			return s.count(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") > 0
		})
	}
	for _, end := range []string{"commit", "rollback"} {
		s.exec(t, "BEGIN")
		s.exec(t, "INSERT INTO users (name, email_address) VALUES ('s3cret', $1)", wanted["email"])
		create := c.request("create", wanted)
		c.send(t, create)
		waiting()
		// Meanwhile the others are served.
		c.call(t, "patch", patchOf(u, op("replace", "/name", "s3cret meanwhile"))).result(t)
		s.exec(t, end)
		if a := c.await(t, create); end == "commit" {
			a.refused(t, "conflict")
			s.exec(t, "DELETE FROM users WHERE email_address = $1", wanted["email"])
		} else {
			a.result(t)
		}
	}

	s.exec(t, "BEGIN")
	s.exec(t, "UPDATE users SET name = 's3cret theirs' WHERE id = $1", u["id"])
	patch := c.request("patch", patchOf(u, op("test", "/name", "s3cret theirs"), op("add", "/picture_url", "s3cret")))
	c.send(t, patch)
	c.create(t, newUser()) // others are served, after the patch was tried
	s.exec(t, "COMMIT")
	c.await(t, patch).result(t)
}
