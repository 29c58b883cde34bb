package faults

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/testservers"
)

// TestRefusedConnections: PostgreSQL refuses new connections and keeps those that are open.
func TestRefusedConnections(t *testing.T) {
	t.Parallel()
	t.Run("ends", testRefusedEnds)
	t.Run("serves_until_it_ends", testRefusedServes)
	t.Run("open_ones_are_lost", testRefusedLost)
	t.Run("password_files", testPasswordFiles)
}

const rolePassword = "s3cret-role"

// newRoleSite makes a site with a PostgreSQL role of its own, which has no privileges
// beyond its database.
func newRoleSite(t *testing.T) (s *harness.Site, role string) {
	t.Helper()
	s = harness.NewEmptySite(t)
	database := s.Settings["database.postgres.database"]
	role = "role_" + database[len(database)-10:]
	s.Exec(t, `CREATE ROLE `+role+` LOGIN PASSWORD '`+rolePassword+`'`)
	s.Exec(t, `ALTER DATABASE "`+database+`" OWNER TO `+role)
	s.Settings = s.Settings.With(harness.Settings{"database.postgres.user": role, "database.postgres.password": rolePassword})
	s.Migrate(t)
	return s, role
}

// terminate ends the sessions of a role.
func terminate(t *testing.T, s *harness.Site, role string) {
	t.Helper()
	s.Exec(t, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = $1", role)
}

// readiness returns what /readyz says, "" if the instance is ready.
func readiness(t *testing.T, v *harness.Instance) string {
	t.Helper()
	response, err := http.Get(v.URL + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode == http.StatusOK {
		return ""
	}
	return string(body)
}

// Without amqp.insist the instance ends, whatever the reason, also without requests that need
// a new connection.
func testRefusedEnds(t *testing.T) {
	t.Parallel()
	var all []ending
	for name, change := range map[string]string{
		"password changed": "PASSWORD 's3cret-another'",
		"no login":         "NOLOGIN",
		"connection limit": "CONNECTION LIMIT 1",
	} {
		s, role := newRoleSite(t)
		v := s.Serve(t)
		s.Exec(t, "ALTER ROLE "+role+" "+change)
		all = append(all, ending{name, v.Process, time.Now()})
	}
	for _, e := range all {
		e.check(t)
	}
}

func testRefusedServes(t *testing.T) {
	t.Parallel()
	s, role := newRoleSite(t)
	v := s.Serve(t, harness.Settings{"amqp.insist": "true"})
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	s.Exec(t, "ALTER ROLE "+role+" NOLOGIN")
	harness.Eventually(t, "it is not ready", func() bool {
		return strings.Contains(readiness(t, v), "the database accepts no new connection") &&
			strings.Contains(v.Fetch(t, "/metrics"), "glotpod_ident_database_reachable 0\n")
	})
	if why := readiness(t, v); !strings.Contains(why, "not permitted to log in") || strings.Contains(why, "s3cret") {
		t.Errorf("it does not say why: %s", why)
	}
	c.Create(t, harness.NewUser())
	c.Call(t, "get", dict{"user_id": u["id"]}).Result(t)
	s.Exec(t, "ALTER ROLE "+role+" LOGIN")
	v.AwaitReady(t)
	v.CheckOneConnection(t)
}

func testRefusedLost(t *testing.T) {
	t.Parallel()
	s, role := newRoleSite(t)
	v := s.Serve(t, harness.Settings{"amqp.insist": "true"})
	c := s.NewCaller(t)
	s.Exec(t, "ALTER ROLE "+role+" NOLOGIN")
	terminate(t, s, role)
	m := c.NewRequest("create", harness.NewUser())
	c.Send(t, m)
	harness.Eventually(t, "it is not ready", func() bool {
		return strings.Contains(readiness(t, v), "not serving") // it has left its partitions
	})
	s.Exec(t, "ALTER ROLE "+role+" LOGIN")
	v.AwaitReady(t)
	c.AwaitReply(t, m).Result(t)
}

// Passwords in files are replaced while the instance runs.
func testPasswordFiles(t *testing.T) {
	t.Parallel()
	s, role := newRoleSite(t)
	broker := testservers.RabbitMQ(t)
	setLogin := func(password string) {
		t.Helper()
		if err := broker.Management.CreateUser(t.Context(), role, password); err != nil {
			t.Fatal(err)
		}
		if err := broker.Management.Permit(t.Context(), role, broker.VHost, ".*", ".*", ".*"); err != nil {
			t.Fatal(err)
		}
	}
	setLogin(rolePassword)
	t.Cleanup(func() { broker.Management.DeleteUser(context.Background(), role) })
	s.AMQPURL = broker.URL()
	folder := t.TempDir()
	files := map[string]string{"amqp": filepath.Join(folder, "amqp"), "database.postgres": filepath.Join(folder, "postgres")}
	write := func(content string) {
		t.Helper()
		for _, file := range files {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(rolePassword + "\n")
	s.Settings = s.Settings.With(harness.Settings{"amqp.vhost": broker.VHost, "amqp.login": role, "amqp.insist": "true"})
	for prefix, file := range files {
		delete(s.Settings, prefix+".password")
		s.Settings[prefix+".password_file"] = file
	}
	v := s.Serve(t)

	write("") // not all programs replace a file at once
	s.Exec(t, "ALTER ROLE "+role+" PASSWORD 's3cret-new'")
	terminate(t, s, role)
	setLogin("s3cret-new")
	harness.Eventually(t, "it has read the files", func() bool { return strings.Contains(v.Stderr.String(), "is empty") })
	write("s3cret-new\n")
	v.AwaitReady(t)

	if err := broker.Management.DeleteUser(t.Context(), role); err != nil { // closes its connections
		t.Fatal(err)
	}
	setLogin("s3cret-new")
	harness.Eventually(t, "it serves again", func() bool { return v.Stderr.Count("serving") > 1 })
	v.AwaitReady(t)
	s.NewCaller(t).Create(t, harness.NewUser())
}
