package postgres_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/storetest"
)

// nobody is an address where no server listens.
const nobody = "127.0.0.1:1"

func settingsOf(server *localserver.Postgres, addresses ...string) postgres.Settings {
	return postgres.Settings{Addresses: addresses, Database: "postgres", User: server.User, Password: server.Password,
		SSLMode: "disable", MaxConnections: 2}
}

func openPool(t *testing.T, settings postgres.Settings) *postgres.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// TestSeveralServers: of several servers, the one that accepts writes is used, wherever it is in
// the list and whatever the others do.
func TestSeveralServers(t *testing.T) {
	primary := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	standby := testservers.OwnPostgres(t, localserver.PostgresOptions{StandbyOf: primary})
	silent := listenSilently(t)
	port := func(query interface {
		QueryRow(context.Context, string, ...any) pgx.Row
	}) (port int) {
		if err := query.QueryRow(t.Context(), "SELECT inet_server_port()").Scan(&port); err != nil {
			t.Error(err)
		}
		return port
	}
	for name, addresses := range map[string][]string{
		"primary_first":  {primary.Address(), standby.Address()},
		"standby_first":  {standby.Address(), primary.Address()},
		"one_is_away":    {nobody, standby.Address(), primary.Address()},
		"one_is_silent":  {silent, primary.Address(), standby.Address()},
		"a_name_unknown": {"nowhere.invalid:5432", primary.Address()},
	} {
		t.Run(name, func(t *testing.T) {
			settings := settingsOf(primary, addresses...)
			pool := openPool(t, settings)
			if err := pool.Ping(t.Context()); err != nil {
				t.Error(err)
			}
			if got := port(pool); got != primary.Port {
				t.Errorf("port %d", got)
			}
			bulk, err := settings.ConnectForBulk(t.Context(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			defer postgres.CloseConn(bulk)
			if got := port(bulk); got != primary.Port {
				t.Errorf("bulk: port %d", got)
			}
		})
	}
	t.Run("one_with_several_addresses_is_silent", func(t *testing.T) {
		_, port, err := net.SplitHostPort(silent)
		if err != nil {
			t.Fatal(err)
		}
		if other, err := net.Listen("tcp", "[::1]:"+port); err == nil { // else the name has one address
			defer other.Close()
		}
		settings := settingsOf(primary, "localhost:"+port, primary.Address())
		settings.SSLMode = "prefer"
		if err := openPool(t, settings).Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("statements_are_cancelled", func(t *testing.T) {
		pool := openPool(t, settingsOf(primary, nobody, nobody, nobody, nobody, primary.Address()))
		if err := pool.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // longer than the attempts to connect might take
		defer cancel()
		const sleep = "SET statement_timeout = 0; SET client_connection_check_interval = 0; SELECT pg_sleep(600)"
		if _, err := pool.Exec(ctx, sleep, pgx.QueryExecModeSimpleProtocol); err == nil {
			t.Error("it slept")
		}
		within(t, time.Minute, "the server works on it no longer", func() (done bool) {
			if err := pool.QueryRow(t.Context(), `SELECT NOT EXISTS (SELECT FROM pg_stat_activity
				WHERE state = 'active' AND query = $1)`, sleep).Scan(&done); err != nil {
				t.Fatal(err)
			}
			return done
		})
	})
	t.Run("only_standbys", func(t *testing.T) {
		if err := openPool(t, settingsOf(primary, standby.Address(), nobody)).Ping(t.Context()); err == nil {
			t.Error("a standby was used")
		}
	})
	t.Run("promotion", func(t *testing.T) {
		pool := openPool(t, settingsOf(primary, silent, primary.Address(), standby.Address()))
		if err := pool.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		primary.Kill()
		if err := standby.Promote(t.Context()); err != nil {
			t.Fatal(err)
		}
		within(t, 20*time.Second, "the new primary is used", func() bool { return pool.Ping(t.Context()) == nil })
		if got := port(pool); got != standby.Port {
			t.Errorf("port %d", got)
		}
		start := time.Now()
		for range 12 { // the silent server is not asked again
			conn, err := pool.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			postgres.CloseConn(conn)
		}
		if took := time.Since(start); took > 12*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// listenSilently accepts connections and never answers.
func listenSilently(t *testing.T) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String() // the system accepts
}

// TestEncryption is about servers that take encrypted connections.
func TestEncryption(t *testing.T) {
	server := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	authority := testservers.NewAuthority(t)
	e := &encrypted{Postgres: server, admin: storetest.Connect(t, server.URL("postgres"))}
	certFile, keyFile := authority.Issue(t, "localhost")
	for name, file := range map[string]string{"server.crt": certFile, "server.key": keyFile, "ca.crt": authority.CAFile} {
		pem, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		e.write(t, name, string(pem))
	}
	e.set(t, "ALTER SYSTEM SET ssl = on")
	e.set(t, "ALTER SYSTEM SET ssl_ca_file = 'ca.crt'")
	t.Run("client_certificate", func(t *testing.T) { testClientCertificate(t, e, authority) })
	t.Run("read_only", func(t *testing.T) { testReadOnlyEncrypted(t, e) })
}

// encrypted is a server that takes encrypted connections.
type encrypted struct {
	*localserver.Postgres
	admin *pgx.Conn
}

// write writes a file into the folder of the server.
func (e *encrypted) write(t *testing.T, name, content string) {
	t.Helper()
	e.exec(t, fmt.Sprintf("COPY (SELECT unnest(string_to_array('%s', E'\n'))) TO PROGRAM 'umask 077; cat > %s'", content, name))
}

func (e *encrypted) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := e.admin.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// set changes a setting. The server applies it a moment later.
func (e *encrypted) set(t *testing.T, sql string) {
	t.Helper()
	e.exec(t, sql)
	e.exec(t, "SELECT pg_reload_conf()")
}

// testClientCertificate: a server that asks for a client certificate gets that of the settings, and
// a renewed one for the next connection.
func testClientCertificate(t *testing.T, e *encrypted, authority *testservers.Authority) {
	e.write(t, "pg_hba.conf", "hostssl all all 127.0.0.1/32 cert\nlocal all all trust\n")
	e.set(t, "SELECT")
	settings := settingsOf(e.Postgres, nobody, e.Address())
	settings.SSLMode, settings.SSLRootCert, settings.Password = "verify-full", authority.CAFile, ""
	settings.SSLCert, settings.SSLKey = authority.Issue(t, e.User)
	var pool *postgres.Pool
	within(t, 10*time.Second, "the certificate is accepted", func() bool {
		pool = openPool(t, settings)
		return pool.Ping(t.Context()) == nil
	})
	conn, err := pool.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer postgres.CloseConn(conn)
	var serial string
	if err := conn.QueryRow(t.Context(), "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&serial); err != nil || serial != "/CN="+e.User {
		t.Errorf("client %q, %v", serial, err)
	}
	other, otherKey := authority.Issue(t, "somebody")
	for from, to := range map[string]string{other: settings.SSLCert, otherKey: settings.SSLKey} {
		pem, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, pem, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if conn, err := pool.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate authentication failed") {
		t.Errorf("the certificate of another user: %v", err)
		if err == nil {
			postgres.CloseConn(conn)
		}
	}
	os.Remove(settings.SSLKey)
	if _, err := pool.Connect(t.Context()); !postgres.IsUnreachable(err) {
		t.Errorf("without a key: %v", err)
	}
	e.write(t, "pg_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\nlocal all all trust\n")
	e.set(t, "SELECT")
}

// testReadOnlyEncrypted: with sslmode=prefer, no connection is attempted without
// encryption because the encrypted one is read-only.
func testReadOnlyEncrypted(t *testing.T, e *encrypted) {
	e.set(t, "ALTER SYSTEM SET default_transaction_read_only = on")
	address, plain := countPlain(t, e.Address())
	// The server applies a new setting a moment after the reload.
	within(t, 10*time.Second, "the server is read-only and takes encrypted connections", func() bool {
		config, err := pgx.ParseConfig(strings.Replace(e.URL("postgres"), "sslmode=disable", "sslmode=require", 1))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			return false
		}
		defer conn.Close(t.Context())
		var readOnly bool
		return conn.QueryRow(t.Context(), "SELECT current_setting('transaction_read_only')::boolean").Scan(&readOnly) == nil && readOnly
	})
	var pools []*postgres.Pool
	for name, addresses := range map[string][]string{
		"one_server": {address}, "a_further_one_is_away": {address, nobody}, "another_one_is_away": {nobody, address},
	} {
		t.Run(name, func(t *testing.T) {
			settings := settingsOf(e.Postgres, addresses...)
			settings.SSLMode = "prefer"
			pool, err := postgres.Open(context.WithoutCancel(t.Context()), settings)
			if err != nil {
				t.Fatal(err)
			}
			pools = append(pools, pool)
			if err := pool.Ping(t.Context()); err == nil {
				t.Error("a read-only connection was used")
			}
			if n := plain.Load(); n > 0 {
				t.Errorf("%d connections were attempted without encryption", n)
			}
		})
	}
	e.exec(t, "SET default_transaction_read_only = off")
	e.set(t, "ALTER SYSTEM RESET default_transaction_read_only")
	for _, pool := range pools {
		defer pool.Close()
		within(t, 10*time.Second, "a connection is accepted", func() bool { return pool.Ping(t.Context()) == nil })
		var secured bool
		if err := pool.QueryRow(t.Context(), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&secured); err != nil || !secured {
			t.Errorf("encrypted: %t, %v", secured, err)
		}
	}
}

// countPlain relays connections to a server. It counts those that do not begin with a request for
// encryption.
func countPlain(t *testing.T, server string) (address string, plain *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain = new(atomic.Int64)
	var relays sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		relays.Wait()
	})
	relay := func(client net.Conn) {
		defer client.Close()
		upstream, err := net.Dial("tcp", server)
		if err != nil {
			return
		}
		defer upstream.Close()
		first := make([]byte, 8)
		if _, err := io.ReadFull(client, first); err != nil {
			return
		}
		if string(first) != "\x00\x00\x00\x08\x04\xd2\x16\x2f" { // SSLRequest
			plain.Add(1)
		}
		upstream.Write(first)
		relays.Go(func() {
			io.Copy(client, upstream) // an error is the connection's end
			client.Close()
		})
		io.Copy(upstream, client)
	}
	relays.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			relays.Go(func() { relay(client) })
		}
	})
	return listener.Addr().String(), plain
}
