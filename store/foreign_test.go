package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
)

// watch watches for foreign writes. It sends the argument of each call to calls.
func (h *harness) watch(s *store.Store) (calls <-chan bool, stop func()) {
	h.t.Helper()
	all := make(chan bool, 100)
	ctx, cancel := context.WithCancel(h.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.WatchForeignWrites(ctx, func(trusted bool) { all <- trusted })
	}()
	stop = func() {
		cancel()
		<-ended
	}
	h.t.Cleanup(stop)
	return all, stop
}

// expect waits for the next call, which must have this argument.
func expect(t *testing.T, calls <-chan bool, want bool) {
	t.Helper()
	select {
	case got := <-calls:
		if got != want {
			t.Fatalf("called with %v, want %v", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("not called with %v", want)
	}
}

func TestForeignWrites(t *testing.T) {
	t.Run("each_kind_ends_the_trust", testForeignWritesEachKindEndsTheTrust)
	t.Run("replicated_writes_end_the_trust", testForeignWritesReplicatedWritesEndTheTrust)
	t.Run("noticed_after_a_lost_connection", testForeignWritesNoticedAfterALostConnection)
	t.Run("cancel_ends_the_trust", testForeignWritesCancelEndsTheTrust)
	t.Run("silent_connection_ends_the_trust", testForeignWritesSilentConnectionEndsTheTrust)
	t.Run("too_few_connections", testForeignWritesTooFewConnections)
}

func testForeignWritesEachKindEndsTheTrust(t *testing.T) {
	for _, role := range []string{"origin", "replica"} {
		t.Run(role, func(t *testing.T) { testEachKindOfForeignWrite(t, role) })
	}
}

func testEachKindOfForeignWrite(t *testing.T, role string) {
	h := start(t)
	h.exec("SELECT set_config('session_replication_role', $1, false)", role)
	for name, sql := range map[string]string{
		"update":           "UPDATE users SET name = 'theirs'",
		"update of no row": "UPDATE services SET sv_id = 1 WHERE user_id = -1",
		"insert":           "INSERT INTO users (name, email_address) VALUES ('', random())",
		"delete":           "DELETE FROM services",
		"truncate":         "TRUNCATE services",
		"within a query":   "WITH u AS (UPDATE users SET name = '' RETURNING id) SELECT * FROM u",
	} {
		t.Run(name, func(t *testing.T) {
			calls, stop := h.watch(h.Store)
			expect(t, calls, true)
			listener := connect(t, h.db.Config().ConnString())
			if _, err := listener.Exec(t.Context(), "LISTEN ident_foreign"); err != nil {
				t.Fatal(err)
			}
			o := h.do("create", "", ada(len(name)))
			h.do("patch", "", args{"user_id": o.UserID, "ops": replace("/name", "ours")})
			h.do("delete", "", args{"user_id": o.UserID})
			h.exec(sql)
			expect(t, calls, false)
			n, err := listener.WaitForNotification(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n.PID != h.db.PgConn().PID() {
				t.Error("a write of ours was notified")
			}
			stop()
			if len(calls) != 0 {
				t.Error("more calls than expected")
			}
		})
	}
}

// Rows that are replicated from another database do not fire statement triggers.
func testForeignWritesReplicatedWritesEndTheTrust(t *testing.T) {
	server := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	root := connect(t, server.URL("postgres"))
	for _, sql := range []string{"ALTER SYSTEM SET wal_level = logical", "CREATE DATABASE theirs", "CREATE DATABASE ours"} {
		if _, err := root.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	server.Kill()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	theirs := &harness{t: t, db: connect(t, server.URL("theirs"))}
	migrate(t, theirs.db)
	theirs.exec("CREATE PUBLICATION users FOR TABLE users, services")
	theirs.exec("SELECT pg_create_logical_replication_slot('users', 'pgoutput')")

	ours := &harness{t: t, db: connect(t, server.URL("ours"))}
	ours.opts = options(t, &testservers.Database{Host: server.Host, Port: server.Port, User: server.User, Password: server.Password, Name: "ours"})
	migrate(t, ours.db)
	ours.exec("CREATE SUBSCRIPTION users CONNECTION '" + server.URL("theirs") + "' PUBLICATION users WITH (create_slot = false, copy_data = false)")
	s := ours.open()
	for _, sql := range []string{
		"INSERT INTO users VALUES (1, 'Ada', NULL, 'ada@example.org')",
		"UPDATE users SET name = 'Ada Byron'",
		"INSERT INTO services VALUES (1, 7, 'gh', ''), (1, 9, 'fb', '')",
		"UPDATE services SET sv_id = 8 WHERE sv_name = 'gh'",
		"DELETE FROM services WHERE sv_name = 'gh'",
		"TRUNCATE services",
		"DELETE FROM users",
	} {
		calls, stop := ours.watch(s)
		expect(t, calls, true)
		theirs.exec(sql)
		expect(t, calls, false)
		stop()
	}
}

func testForeignWritesNoticedAfterALostConnection(t *testing.T) {
	h := start(t)
	calls, stop := h.watch(h.Store)
	expect(t, calls, true)
	h.await("SELECT count(pg_terminate_backend(pid)) = 1 FROM pg_stat_activity WHERE query = 'LISTEN ident_foreign' AND datname = current_database()")
	expect(t, calls, false)
	expect(t, calls, true)
	h.exec("UPDATE users SET name = ''")
	expect(t, calls, false)
	stop()
	if len(calls) != 0 {
		t.Error("more calls than expected")
	}
}

func testForeignWritesCancelEndsTheTrust(t *testing.T) {
	h := start(t)
	calls, stop := h.watch(h.Store)
	expect(t, calls, true)
	stop()
	expect(t, calls, false)
}

func testForeignWritesSilentConnectionEndsTheTrust(t *testing.T) {
	h := start(t)
	s, p := h.throughProxy()
	calls, _ := h.watch(s)
	expect(t, calls, true)
	begun := time.Now()
	p.fallSilent()
	expect(t, calls, false)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	p.cut()
	expect(t, calls, true)
}

func testForeignWritesTooFewConnections(t *testing.T) {
	for most, trusts := range map[int]bool{2: false, 3: false, 4: true} {
		h := start(t, func(o *store.Options) { o.MaxConnections = most })
		calls, stop := h.watch(h.Store)
		if trusts {
			expect(t, calls, true)
		}
		if err := h.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		for i := range 50 {
			h.create(i)
		}
		n := h.one("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1", "glotpod.ident/"+h.opts.Name).(int64)
		if n > int64(most) {
			t.Errorf("%d connections, and %d are allowed", n, most)
		}
		stop()
		if !trusts && len(calls) != 0 {
			t.Errorf("with %d connections, changed was called", most)
		}
	}
}
