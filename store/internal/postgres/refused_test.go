package postgres_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/storetest"
)

// A refusal is a reason for which the server refuses new connections of a role.
type refusal struct{ begin, end string }

// The role is replaced by the test's own.
var refusals = map[string]refusal{
	"password_changed": {"ALTER ROLE the_role PASSWORD 'another'", "ALTER ROLE the_role PASSWORD 's3cret'"},
	"no_login":         {"ALTER ROLE the_role NOLOGIN", "ALTER ROLE the_role LOGIN"},
	"connection_limit": {"ALTER ROLE the_role CONNECTION LIMIT 1", "ALTER ROLE the_role CONNECTION LIMIT -1"},
}

// TestRefusedConnections: a database that refuses new connections is out of reach, and
// whether requests can go on depends on the connections that are open.
func TestRefusedConnections(t *testing.T) {
	for name, r := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Run("open_ones_work", func(t *testing.T) { testRefusedWhileOpenOnesWork(t, r) })
			t.Run("open_ones_are_lost", func(t *testing.T) { testRefusedAndLost(t, r) })
		})
	}
	t.Run("silence_is_no_refusal", testSilence)
	t.Run("password_file", testPasswordFile)
	t.Run("certificates", testCertificateFile)
}

// maxOfRole is the size of a pool.
const maxOfRole = 8

// A roleHarness is a pool of a role that the server can refuse.
type roleHarness struct {
	*postgres.Pool
	db   *pgx.Conn // of a superuser
	role string
}

// startAsRole opens a pool. It has at least two connections beside that of Ping.
func startAsRole(t *testing.T, change ...func(*postgres.Settings)) *roleHarness {
	t.Helper()
	d := testservers.Postgres(t)
	h := &roleHarness{db: storetest.Connect(t, d.URL()), role: "role_" + strings.ToLower(d.Name)}
	h.exec(t, "CREATE ROLE the_role LOGIN PASSWORD 's3cret'")
	t.Cleanup(func() { h.exec(t, "DROP ROLE the_role") })
	settings := postgres.Settings{Addresses: []string{d.Address()}, Database: d.Name, User: h.role, Password: "s3cret",
		SSLMode: "disable", MaxConnections: maxOfRole, ApplicationName: h.role}
	for _, c := range change {
		c(&settings)
	}
	var err error
	if h.Pool, err = postgres.Open(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	if err := h.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, conn := range h.hold(t, 2) {
		conn.Release()
	}
	return h
}

// exec executes a statement about the role, as another role.
func (h *roleHarness) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := h.db.Exec(context.Background(), strings.ReplaceAll(sql, "the_role", `"`+h.role+`"`)); err != nil {
		t.Fatal(err)
	}
}

type released interface{ Release() }

// hold acquires connections of the pool.
func (h *roleHarness) hold(t *testing.T, n int) (all []released) {
	t.Helper()
	for range n {
		conn, err := h.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, conn)
	}
	return all
}

// terminate ends the sessions of the role.
func (h *roleHarness) terminate(t *testing.T) {
	h.exec(t, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = '"+h.role+"'::name")
}

// demand has the pool open one more connection than it has, which fails.
func (h *roleHarness) demand(t *testing.T) {
	t.Helper()
	for range maxOfRole {
		conn, err := h.Acquire(t.Context())
		if err == nil {
			defer conn.Release()
			continue
		}
		if postgres.Classify(err) != postgres.Unsent || !postgres.IsUnreachable(err) {
			t.Errorf("one more connection: class %v: %v", postgres.Classify(err), err)
		}
		return
	}
	t.Error("one more connection was possible")
}

// testRefusedWhileOpenOnesWork: the next ping after the pool has noticed says that there is
// no new connection, and transactions go on.
func testRefusedWhileOpenOnesWork(t *testing.T, r refusal) {
	h := startAsRole(t)
	h.exec(t, r.begin)
	if err := h.Ping(t.Context()); err != nil {
		t.Error("a ping without need opened a connection:", err)
	}
	h.demand(t)
	for range 2 {
		err := h.Ping(t.Context())
		if !errors.Is(err, wait.ErrNoNewConnection) || !postgres.IsUnreachable(err) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("while it is refused: %v", err)
		}
	}
	err := h.Transact(t.Context(), func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) })
	if err != nil {
		t.Errorf("a transaction over an open connection: %v", err)
	}
	h.exec(t, r.end)
	if err := h.Ping(t.Context()); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func testRefusedAndLost(t *testing.T, r refusal) {
	h := startAsRole(t)
	h.exec(t, strings.Replace(r.begin, "LIMIT 1", "LIMIT 0", 1))
	h.terminate(t)
	for range 3 {
		if err := h.Ping(t.Context()); !postgres.IsUnreachable(err) || errors.Is(err, wait.ErrNoNewConnection) {
			t.Errorf("while it is refused: %v", err)
		}
	}
	err := h.Transact(t.Context(), func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) })
	if postgres.Classify(err) != postgres.Unsent {
		t.Errorf("a transaction has the class %v: %v", postgres.Classify(err), err)
	}
	h.exec(t, r.end)
	if err := h.Ping(t.Context()); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// testSilence: while nothing that is sent to the database gets an answer, as when the network
// is cut, no ping takes the open connections for ones that work.
func testSilence(t *testing.T) {
	h := storetest.Start(t)
	s, proxy := h.OpenThroughProxy()
	s.PrepareConnections(t.Context())
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxy.FallSilent()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if err := s.Ping(ctx); !postgres.IsUnreachable(err) || errors.Is(err, wait.ErrNoNewConnection) {
			t.Errorf("while the database is silent: %v", err)
		}
		cancel()
	}
	proxy.Cut()
	wantEventually(t, func() error { return s.Ping(t.Context()) })
}

// testPasswordFile: a new password is used for the next connection. While there is none,
// connections fail.
func testPasswordFile(t *testing.T) {
	var password atomic.Pointer[string]
	set := func(s string) { password.Store(&s) }
	set("s3cret")
	h := startAsRole(t, func(s *postgres.Settings) {
		s.ReadPassword = func() (string, error) {
			if *password.Load() == "" {
				return "", os.ErrNotExist
			}
			return *password.Load(), nil
		}
	})
	h.exec(t, "ALTER ROLE the_role PASSWORD 'new'")
	h.demand(t)
	set("")
	h.demand(t)
	if err := h.Ping(t.Context()); !errors.Is(err, wait.ErrNoNewConnection) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	set("new")
	h.terminate(t)
	wantEventually(t, func() error { return h.Ping(t.Context()) })
	for _, conn := range h.hold(t, maxOfRole) {
		conn.Release()
	}
}

// testCertificateFile: the CA certificates are read for each connection.
func testCertificateFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(from string) {
		t.Helper()
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(file, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(testservers.NewAuthority(t).CAFile)
	h := startAsRole(t, func(s *postgres.Settings) { s.SSLMode, s.SSLRootCert = "prefer", file })
	first := h.Config().ConnConfig.TLSConfig.RootCAs
	os.Remove(file)
	h.demand(t)
	write(testservers.NewAuthority(t).CAFile)
	config := h.Config()
	if err := config.BeforeConnect(t.Context(), config.ConnConfig); err != nil {
		t.Fatal(err)
	}
	if config.ConnConfig.TLSConfig.RootCAs.Equal(first) || config.ConnConfig.Fallbacks == nil {
		t.Error("the old certificates are used")
	}
	for _, conn := range h.hold(t, maxOfRole) {
		conn.Release()
	}
}

func wantEventually(t *testing.T, try func() error) {
	t.Helper()
	err := try()
	for begun := time.Now(); err != nil && time.Since(begun) < 10*time.Second; err = try() {
		wait.For(t.Context(), 20*time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
}
