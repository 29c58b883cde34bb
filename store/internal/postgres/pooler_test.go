package postgres_test

import (
	"errors"
	"testing"
	"time"

	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/postgres"
)

// TestPooler: a connection pooler must keep sessions.
func TestPooler(t *testing.T) {
	d := testservers.Postgres(t)
	settings := postgres.Settings{Addresses: []string{d.Address()}, Database: d.Name, User: d.User, Password: d.Password,
		SSLMode: "disable", ApplicationName: "pooled", MaxConnections: 3}
	check := func(t *testing.T, settings postgres.Settings, wanted bool) {
		t.Helper()
		for range 3 { // PgBouncer may have sessions left
			_, bulk := settings.ConnectForBulk(t.Context(), time.Minute)
			for name, err := range map[string]error{"pool": openPool(t, settings).CheckSessions(t.Context()), "bulk": bulk} {
				if _, refused := errors.AsType[*postgres.PoolerError](err); refused == wanted || (err == nil) != wanted {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
	t.Run("none", func(t *testing.T) { check(t, settings, true) })
	for mode, wanted := range map[string]bool{"session": true, "transaction": false, "statement": false} {
		t.Run(mode, func(t *testing.T) {
			pooled := settings
			pooled.Addresses = []string{testservers.PgBouncer(t, d, mode).Address}
			check(t, pooled, wanted)
		})
	}
}
