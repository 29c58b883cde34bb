package faults

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

// TestLostCommits: an asynchronous standby that lacks the last commits becomes the primary. The
// instances notice it and go on.
func TestLostCommits(t *testing.T) {
	t.Parallel()
	s := harness.NewEmptySite(t)
	primary := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	s.UsePostgres(t, primary)
	standby := testservers.OwnPostgres(t, localserver.PostgresOptions{StandbyOf: primary})
	s.Settings = s.Settings.With(harness.Settings{
		"database.postgres.host": fmt.Sprintf("127.0.0.1:%d, 127.0.0.1:%d", primary.Port, standby.Port),
		"amqp.insist":            "true",
	})
	a, b := s.ServeAs(t, "a"), s.ServeAs(t, "b")
	c, told := s.NewCaller(t), s.Subscribe(t)
	user := harness.NewUser("github")
	kept := c.Create(t, user)
	rename := func(name string) {
		t.Helper()
		c.Call(t, "patch", harness.Dict{"user_id": kept["id"], "ops": []any{harness.Dict{"op": "replace", "path": "/name", "value": name}}})
	}
	rename("kept")

	replica, err := pgx.Connect(t.Context(), standby.URL(s.Settings["database.postgres.database"]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { replica.Close(context.Background()) })
	await := func(conn *pgx.Conn, sql string, args ...any) {
		t.Helper()
		harness.Eventually(t, sql, func() (holds bool) {
			if err := conn.QueryRow(t.Context(), sql, args...).Scan(&holds); err != nil {
				t.Fatal(err)
			}
			return holds
		})
	}
	var position string
	if err := s.DB.QueryRow(t.Context(), "SELECT pg_current_wal_insert_lsn()::text").Scan(&position); err != nil {
		t.Fatal(err)
	}
	await(replica, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", position)
	for _, sql := range []string{"ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"} {
		if _, err := replica.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	await(s.DB, "SELECT NOT EXISTS (SELECT FROM pg_stat_replication)")

	rename("lost")
	greatest := c.Create(t, harness.NewUser("github"))["id"].(int64)
	epoch := s.Count(t, "SELECT max(epoch) FROM ident_partitions")
	primary.Kill()
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	s.DB = replica

	if name := c.Get(t, kept["id"])["name"]; name != "kept" {
		t.Errorf("after the failover the user is called %v", name)
	}
	rename("after")
	t.Logf("the first write got its reply %.1f s after the promotion", time.Since(begun).Seconds())
	if name := c.Get(t, kept["id"])["name"]; name != "after" {
		t.Errorf("the user is called %v", name)
	}
	created := c.Create(t, harness.NewUser("github"))["id"].(int64)
	if created <= greatest {
		t.Errorf("the user id %d was given, and %d before", created, greatest)
	}
	if n := s.Count(t, "SELECT min(epoch) FROM ident_partitions"); n <= epoch {
		t.Errorf("the epoch %d was given, and %d before", n, epoch)
	}
	for n := told.Next(t); n.Key != harness.CreateKey || n.Value.(harness.Dict)["id"] != created; {
		n = told.Next(t) // some are of before
	}
	checkSaid(t, a, b)
}

// checkSaid fails unless an instance says on the page, in its log and as a metric that commits were lost.
func checkSaid(t *testing.T, all ...*harness.Instance) {
	t.Helper()
	found := 0
	for _, v := range all {
		v.AwaitReady(t) // all partitions are claimed again, those without requests perhaps later
		if strings.Contains(v.Fetch(t, "/metrics"), "\nglotpod_ident_database_lost_commits_total 1\n") {
			found++
			if n := strings.Count(v.Process.Stderr.String(), `"database has lost commits"`); n != 1 {
				t.Errorf("logged %d times", n)
			}
			if body := v.Fetch(t, "/readyz"); !strings.Contains(body, "the database has lost commits") {
				t.Errorf("/readyz says %q", body)
			}
			if status := v.Fetch(t, "/status.json"); !strings.Contains(status, "the database has lost commits") {
				t.Errorf("the page shows %s", status)
			}
		}
	}
	if found == 0 {
		t.Error("no instance has noticed that commits were lost")
	}
}
