package postgres_test

import (
	"context"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestSession: the parameters of a session are set when it is open, because a pooler refuses or
// drops them at the start of a connection.
func TestSession(t *testing.T) {
	d := testservers.Postgres(t)
	settings := postgres.Settings{Addresses: []string{d.Address()}, Database: d.Name, User: d.User, Password: d.Password,
		SSLMode: "disable", ApplicationName: "glotpod.ident/test", MaxConnections: 1}

	t.Run("start_has_only_what_a_pooler_takes", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		started := make(chan []string, 2)
		go func() {
			for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
				if message, err := pgproto3.NewBackend(conn, conn).ReceiveStartupMessage(); err == nil {
					if start, ok := message.(*pgproto3.StartupMessage); ok {
						started <- slices.Sorted(maps.Keys(start.Parameters))
					}
				}
				conn.Close()
			}
		}()
		pooler := settings
		pooler.Addresses = []string{listener.Addr().String()}
		pool, err := postgres.Open(t.Context(), pooler)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		if _, err := pooler.ConnectForBulk(t.Context(), time.Minute); err == nil {
			t.Error("the pooler takes connections")
		}
		for range 2 {
			if keys := <-started; !slices.Equal(keys, []string{"application_name", "database", "user"}) {
				t.Errorf("the start has %q", keys)
			}
		}
	})

	want := map[string]string{
		"application_name": "glotpod.ident/test", "plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_hashjoin": "off",
		"enable_mergejoin": "off", "jit": "off", "statement_timeout": "15s", "lock_timeout": "2s", "default_transaction_isolation": "read committed",
		"transaction_isolation": "read committed", "idle_in_transaction_session_timeout": "3s", "tcp_keepalives_idle": "6", "tcp_keepalives_interval": "2",
		"tcp_keepalives_count": "3",
	}
	check := func(t *testing.T, conn interface {
		QueryRow(context.Context, string, ...any) pgx.Row
	}, others map[string]string) {
		t.Helper()
		all := maps.Clone(want)
		maps.Copy(all, others)
		for name, value := range all {
			var got string
			if err := conn.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&got); err != nil || got != value {
				t.Errorf("%s is %q, %v", name, got, err)
			}
		}
	}
	// The defaults are others.
	if _, err := storetest.Connect(t, d.URL()).Exec(t.Context(), `ALTER DATABASE "`+d.Name+`" SET default_transaction_isolation = 'serializable'`); err != nil {
		t.Fatal(err)
	}
	pooled := settings
	pooled.Addresses = []string{testservers.PgBouncer(t, d, "session").Address}
	for name, settings := range map[string]postgres.Settings{"direct": settings, "by_PgBouncer": pooled} {
		t.Run(name+"/pool", func(t *testing.T) { check(t, openPool(t, settings), nil) })
		t.Run(name+"/bulk", func(t *testing.T) {
			conn, err := settings.ConnectForBulk(t.Context(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			defer postgres.CloseConn(conn)
			check(t, conn, map[string]string{"statement_timeout": "1min", "max_parallel_workers_per_gather": "0"})
		})
	}
	t.Run("environment_and_home_do_not_count", func(t *testing.T) {
		home := filepath.Join(t.TempDir(), ".postgresql")
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"postgresql.crt", "postgresql.key", "root.crt"} {
			if err := os.WriteFile(filepath.Join(home, name), []byte("none"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("HOME", filepath.Dir(home))
		for _, name := range []string{"HOST", "PORT", "DATABASE", "USER", "PASSWORD", "PASSFILE", "APPNAME", "CONNECT_TIMEOUT", "SSLMODE", "SSLKEY",
			"SSLCERT", "SSLCERTMODE", "SSLSNI", "SSLROOTCERT", "SSLPASSWORD", "SSLNEGOTIATION", "TARGETSESSIONATTRS", "SERVICE", "SERVICEFILE",
			"TZ", "OPTIONS", "MINPROTOCOLVERSION", "MAXPROTOCOLVERSION", "CHANNELBINDING", "REQUIREAUTH"} {
			t.Setenv("PG"+name, "wrong")
		}
		pool, err := postgres.Open(t.Context(), settings)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		check(t, pool, nil)
		secured := settings
		secured.SSLMode = "require"
		config, err := secured.PoolConfig()
		if err != nil {
			t.Fatal(err)
		}
		if c := config.ConnConfig.TLSConfig; c.RootCAs != nil || c.Certificates != nil || c.NextProtos != nil {
			t.Errorf("TLS with %+v", c)
		}
	})
}
