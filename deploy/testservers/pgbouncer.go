package testservers

import (
	"testing"

	"github.com/glotpod/ident/deploy/localserver"
)

// PgBouncer starts a connection pooler in front of the server of d. It runs until the end of the
// test. mode is a pool_mode.
func PgBouncer(t testing.TB, d *Database, mode string) *localserver.PgBouncer {
	t.Helper()
	p, err := localserver.StartPgBouncer(t.Context(), Dir(t), d.server, mode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}
