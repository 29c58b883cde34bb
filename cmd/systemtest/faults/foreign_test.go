package faults

import (
	"fmt"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

func TestForeignWrite(t *testing.T) {
	t.Parallel()
	t.Run("seen", testForeignWriteSeen)
	t.Run("not_overwritten", testForeignWriteNotOverwritten)
	t.Run("concurrent", testForeignWriteConcurrent)
	t.Run("uncommitted", testForeignWriteUncommitted)
}

func testForeignWriteSeen(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	s.AwaitForeignWrites(t, c)
	for range 5 {
		ours, theirs := c.Create(t, harness.NewUser()), s.InsertUser(t, harness.NewUser("github", "facebook"))
		c.Call(t, "get", dict{"user_id": theirs["id"]}).IsResult(t, theirs)
		c.Call(t, "create", harness.NewUserLike(theirs)).IsError(t, "conflict")
		c.Call(t, "patch", harness.Patch(ours, op("replace", "/github/id", theirs["github"].(dict)["id"]))).IsError(t, "conflict")
		s.Exec(t, "UPDATE users SET name = 's3cret theirs', email_address = email_address || '.new' WHERE id = $1", ours["id"])
		ours["name"], ours["email"] = "s3cret theirs", ours["email"].(string)+".new"
		c.Call(t, "get", dict{"user_id": ours["id"]}).IsResult(t, ours)
		s.Exec(t, "DELETE FROM services WHERE user_id = $1", theirs["id"])
		s.Exec(t, "DELETE FROM users WHERE id = $1", theirs["id"])
		c.Call(t, "get", dict{"user_id": theirs["id"]}).IsError(t, "not_found")
		c.Call(t, "patch", harness.Patch(theirs)).IsError(t, "not_found")
		c.Create(t, harness.Changed(theirs, dict{"id": nil}))
	}
}

// A patch that follows another one at once applies to what somebody else has
// written in between.
func testForeignWriteNotOverwritten(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	key := s.Settings["database.encryption_key"]
	u := c.Create(t, harness.NewUser("github", "facebook"))
	for i := range 10 {
		ours, theirs := fmt.Sprintf("s3cret ours %d", i), fmt.Sprintf("s3cret theirs %d", i)
		c.Call(t, "patch", harness.Patch(u, op("add", "/picture_url", ours), op("replace", "/facebook/access_token", ours))).Result(t)
		s.Exec(t, "UPDATE users SET name = $1 WHERE id = $2", theirs, u["id"])
		s.Exec(t, "UPDATE services SET sv_id = $1, access_token = $2 WHERE user_id = $3 AND sv_name = 'gh'", i, harness.Seal(t, key, theirs), u["id"])
		c.Call(t, "patch", harness.Patch(u, op("test", "/name", theirs), op("replace", "/facebook/id", 1000+i))).Result(t)
		want := harness.Changed(u, dict{"name": theirs, "picture_url": ours,
			"github":   dict{"id": int64(i), "access_token": theirs},
			"facebook": dict{"id": int64(1000 + i), "access_token": ours},
		})
		c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, want)
	}
}

// While both write as fast as they can, each to its own fields of one user, none
// loses a write.
func testForeignWriteConcurrent(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	key := s.Settings["database.encryption_key"]
	u := c.Create(t, harness.NewUser("github", "facebook"))
	const rounds = 100
	var sent []*harness.Request
	for i := range rounds {
		// Each of ours needs the one before it to have lasted.
		ops := list{op("replace", "/facebook/id", 5000+i+1), op("add", "/picture_url", fmt.Sprint("s3cret ", i+1))}
		if i > 0 {
			ops = append(list{op("test", "/facebook/id", 5000+i), op("test", "/picture_url", fmt.Sprint("s3cret ", i))}, ops...)
		}
		m := c.NewRequest("patch", harness.Patch(u, ops...))
		c.Send(t, m)
		sent = append(sent, m)
	}
	s.Exec(t, "UPDATE users SET name = '0'")
	s.Exec(t, "UPDATE services SET sv_id = 0 WHERE sv_name = 'gh'")
	for i := range rounds {
		// Each of theirs as well.
		for _, sql := range []string{
			"UPDATE users SET name = $1::int::text WHERE name = ($1::int - 1)::text",
			"UPDATE services SET sv_id = $1 WHERE sv_name = 'gh' AND sv_id = $1 - 1",
		} {
			tag, err := s.DB.Exec(t.Context(), sql, i+1)
			if err != nil || tag.RowsAffected() != 1 {
				t.Fatalf("%s (%d): %v, %v", sql, i+1, tag, err)
			}
		}
	}
	for _, m := range sent {
		c.AwaitReply(t, m).Result(t)
	}
	s.Exec(t, "UPDATE services SET access_token = $1 WHERE sv_name = 'gh'", harness.Seal(t, key, "s3cret"))
	c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, dict{
		"id": u["id"], "name": fmt.Sprint(rounds), "email": u["email"], "picture_url": fmt.Sprint("s3cret ", rounds),
		"github":   dict{"id": rounds, "access_token": "s3cret"},
		"facebook": dict{"id": 5000 + rounds, "access_token": u["facebook"].(dict)["access_token"]},
	})
}

// What another transaction has not committed yet is waited for.
func testForeignWriteUncommitted(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	wanted := harness.NewUser()
	waiting := func() {
		t.Helper()
		harness.Eventually(t, "the service waits for a lock", func() bool {
			return s.Count(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") > 0
		})
	}
	for _, end := range []string{"commit", "rollback"} {
		s.Exec(t, "BEGIN")
		s.Exec(t, "INSERT INTO users (name, email_address) VALUES ('s3cret', $1)", wanted["email"])
		create := c.NewRequest("create", wanted)
		c.Send(t, create)
		waiting()
		// Meanwhile the others are served.
		c.Call(t, "patch", harness.Patch(u, op("replace", "/name", "s3cret meanwhile"))).Result(t)
		s.Exec(t, end)
		if a := c.AwaitReply(t, create); end == "commit" {
			a.IsError(t, "conflict")
			s.Exec(t, "DELETE FROM users WHERE email_address = $1", wanted["email"])
		} else {
			a.Result(t)
		}
	}

	s.Exec(t, "BEGIN")
	s.Exec(t, "UPDATE users SET name = 's3cret theirs' WHERE id = $1", u["id"])
	patch := c.NewRequest("patch", harness.Patch(u, op("test", "/name", "s3cret theirs"), op("add", "/picture_url", "s3cret")))
	c.Send(t, patch)
	c.Create(t, harness.NewUser()) // others are served, after the patch was tried
	s.Exec(t, "COMMIT")
	c.AwaitReply(t, patch).Result(t)
}
