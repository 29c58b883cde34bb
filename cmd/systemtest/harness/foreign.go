package harness

import "testing"

// InsertUser adds a user as the Python service does.
func (s *Site) InsertUser(t *testing.T, u Dict) Dict {
	t.Helper()
	var id int64
	err := s.DB.QueryRow(t.Context(), "INSERT INTO users (name, picture_url, email_address) VALUES ($1, $2, $3) RETURNING id",
		u["name"], u["picture_url"], u["email"]).Scan(&id)
	if err != nil {
		t.Fatal(err)
	}
	for service, name := range map[string]string{"github": "gh", "facebook": "fb"} {
		if account, ok := u[service].(Dict); ok {
			s.Exec(t, "INSERT INTO services (user_id, sv_id, sv_name, access_token) VALUES ($1, $2, $3, $4)",
				id, account["id"], name, Seal(t, s.Settings["database.encryption_key"], account["access_token"].(string)))
		}
	}
	return Changed(u, Dict{"id": id})
}

// AwaitForeignWrites writes to a user as another program does, and waits until the
// service has noticed. For 30 s after such a write, the service bypasses its cache.
func (s *Site) AwaitForeignWrites(t *testing.T, c *Caller) {
	t.Helper()
	u := c.Create(t, NewUser())
	s.Exec(t, "UPDATE users SET name = 's3cret foreign' WHERE id = $1", u["id"])
	Eventually(t, "the service hears of a foreign write", func() bool {
		return c.Call(t, "get", Dict{"user_id": u["id"]}).Result(t).(Dict)["name"] == "s3cret foreign"
	})
}
