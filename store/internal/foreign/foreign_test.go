package foreign_test

import (
	"context"
	"testing"
	"time"

	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// watch watches for foreign writes. It sends the argument of each call to calls.
func watch(h *storetest.Harness, s *store.Store) (calls <-chan bool, stop func()) {
	h.T.Helper()
	all := make(chan bool, 100)
	ctx, cancel := context.WithCancel(h.T.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.WatchForeignWrites(ctx, func(trusted bool) { all <- trusted })
	}()
	stop = func() {
		cancel()
		<-ended
	}
	h.T.Cleanup(stop)
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
	h := storetest.Start(t)
	h.Exec("SELECT set_config('session_replication_role', $1, false)", role)
	for name, sql := range map[string]string{
		"update":           "UPDATE users SET name = 'theirs'",
		"update of no row": "UPDATE services SET sv_id = 1 WHERE user_id = -1",
		"insert":           "INSERT INTO users (name, email_address) VALUES ('', random())",
		"delete":           "DELETE FROM services",
		"truncate":         "TRUNCATE services",
		"within a query":   "WITH u AS (UPDATE users SET name = '' RETURNING id) SELECT * FROM u",
	} {
		t.Run(name, func(t *testing.T) {
			calls, stop := watch(h, h.Store)
			expect(t, calls, true)
			listener := h.Connect(t)
			if _, err := listener.Exec(t.Context(), "LISTEN ident_foreign"); err != nil {
				t.Fatal(err)
			}
			o := h.Write("create", "", storetest.UserArgs(len(name)))
			h.Write("patch", "", storetest.Args{"user_id": o.UserID, "ops": storetest.Replace("/name", "ours")})
			h.Write("delete", "", storetest.Args{"user_id": o.UserID})
			h.Exec(sql)
			expect(t, calls, false)
			n, err := listener.WaitForNotification(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n.PID != h.DB.PgConn().PID() {
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
	root := storetest.Connect(t, server.URL("postgres"))
	for _, sql := range []string{"ALTER SYSTEM SET wal_level = logical", "CREATE DATABASE theirs", "CREATE DATABASE ours"} {
		if _, err := root.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	server.Kill()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	theirs := &storetest.Harness{T: t, DB: storetest.Connect(t, server.URL("theirs"))}
	storetest.Migrate(t, theirs.DB)
	theirs.Exec("CREATE PUBLICATION users FOR TABLE users, services")
	theirs.Exec("SELECT pg_create_logical_replication_slot('users', 'pgoutput')")

	ours := &storetest.Harness{T: t, DB: storetest.Connect(t, server.URL("ours"))}
	ours.Options = storetest.Options(t, &testservers.Database{Host: server.Host, Port: server.Port, User: server.User, Password: server.Password, Name: "ours"})
	storetest.Migrate(t, ours.DB)
	ours.Exec("CREATE SUBSCRIPTION users CONNECTION '" + server.URL("theirs") + "' PUBLICATION users WITH (create_slot = false, copy_data = false)")
	s := ours.OpenStore()
	for _, sql := range []string{
		"INSERT INTO users VALUES (1, 'Ada', NULL, 'ada@example.org')",
		"UPDATE users SET name = 'Ada Byron'",
		"INSERT INTO services VALUES (1, 7, 'gh', ''), (1, 9, 'fb', '')",
		"UPDATE services SET sv_id = 8 WHERE sv_name = 'gh'",
		"DELETE FROM services WHERE sv_name = 'gh'",
		"TRUNCATE services",
		"DELETE FROM users",
	} {
		calls, stop := watch(ours, s)
		expect(t, calls, true)
		theirs.Exec(sql)
		expect(t, calls, false)
		stop()
	}
}

func testForeignWritesNoticedAfterALostConnection(t *testing.T) {
	h := storetest.Start(t)
	calls, stop := watch(h, h.Store)
	expect(t, calls, true)
	h.WaitUntil("SELECT count(pg_terminate_backend(pid)) = 1 FROM pg_stat_activity WHERE query = 'LISTEN ident_foreign' AND datname = current_database()")
	expect(t, calls, false)
	expect(t, calls, true)
	h.Exec("UPDATE users SET name = ''")
	expect(t, calls, false)
	stop()
	if len(calls) != 0 {
		t.Error("more calls than expected")
	}
}

func testForeignWritesCancelEndsTheTrust(t *testing.T) {
	h := storetest.Start(t)
	calls, stop := watch(h, h.Store)
	expect(t, calls, true)
	stop()
	expect(t, calls, false)
}

func testForeignWritesSilentConnectionEndsTheTrust(t *testing.T) {
	h := storetest.Start(t)
	s, p := h.OpenThroughProxy()
	calls, _ := watch(h, s)
	expect(t, calls, true)
	begun := time.Now()
	p.FallSilent()
	expect(t, calls, false)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	p.Cut()
	expect(t, calls, true)
}

func testForeignWritesTooFewConnections(t *testing.T) {
	for most, trusts := range map[int]bool{2: false, 3: false, 4: true} {
		h := storetest.Start(t, func(o *store.Options) { o.MaxConnections = most })
		calls, stop := watch(h, h.Store)
		if trusts {
			expect(t, calls, true)
		}
		if err := h.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		for i := range 50 {
			h.CreateUser(i)
		}
		n := h.Value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1", "glotpod.ident/"+h.Options.Name).(int64)
		if n > int64(most) {
			t.Errorf("%d connections, and %d are allowed", n, most)
		}
		stop()
		if !trusts && len(calls) != 0 {
			t.Errorf("with %d connections, changed was called", most)
		}
	}
}
