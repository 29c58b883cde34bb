package systemtest

import "testing"

// insertUser adds a user as the Python service does.
func (s *site) insertUser(t *testing.T, u dict) dict {
	t.Helper()
	var id int64
	err := s.db.QueryRow(t.Context(), "INSERT INTO users (name, picture_url, email_address) VALUES ($1, $2, $3) RETURNING id",
		u["name"], u["picture_url"], u["email"]).Scan(&id)
	if err != nil {
		t.Fatal(err)
	}
	for service, name := range map[string]string{"github": "gh", "facebook": "fb"} {
		if account, ok := u[service].(dict); ok {
			s.exec(t, "INSERT INTO services (user_id, sv_id, sv_name, access_token) VALUES ($1, $2, $3, $4)",
				id, account["id"], name, seal(t, s.settings["database.encryption_key"], account["access_token"].(string)))
		}
	}
	return changed(u, dict{"id": id})
}

// foreignWritesAreHeard has the service hear of a write by another program, which
// it does soon after that is committed. For 30 s after each such write it reads
// the database whenever it is asked.
func (s *site) foreignWritesAreHeard(t *testing.T, c *caller) {
	t.Helper()
	u := c.create(t, newUser())
	s.exec(t, "UPDATE users SET name = 's3cret foreign' WHERE id = $1", u["id"])
	eventually(t, "the service hears of a foreign write", func() bool {
		return c.call(t, "get", dict{"user_id": u["id"]}).result(t).(dict)["name"] == "s3cret foreign"
	})
}
