package testservers

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/glotpod/ident/deploy/localserver"
)

// cleanupTimeout bounds what is done after a test, when its context has ended.
const cleanupTimeout = time.Minute

// A Database belongs to one test. It is empty unless a template says otherwise.
type Database struct {
	Host     string
	Port     int
	User     string // a superuser
	Password string
	Name     string

	server *localserver.Postgres
}

// URL returns the database's address, as pgx takes it.
func (d *Database) URL() string { return d.server.URL(d.Name) }

// Postgres makes a database on the shared server. It is dropped when the test
// ends, under whoever is still connected to it.
func Postgres(t testing.TB) *Database {
	t.Helper()
	// template0 has no visitors, who would get in the way of others that copy it.
	return copyOf(t, "template0", "")
}

// PostgresIn is Postgres, for a database of a locale.
func PostgresIn(t testing.TB, locale string) *Database {
	t.Helper()
	return copyOf(t, "template0", "LOCALE '"+locale+"'")
}

// A Template is a database that those of many tests begin as: copying it costs a
// fraction of what filling each of them would.
type Template struct {
	mu   sync.Mutex // guards the following field; held while it is filled
	name string     // "" until it is filled
}

// Postgres is like the function of that name, for a database that begins as a copy
// of the template, which fill fills for the first test that asks. That one stays
// as long as its server, and nobody may be connected to it when fill has returned.
func (x *Template) Postgres(t testing.TB, fill func(*Database)) *Database {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.name == "" {
		d := create(t, "template0", "")
		fill(d)
		x.name = d.Name
	}
	return copyOf(t, x.name, "")
}

// copyOf makes a database that is dropped when the test ends.
func copyOf(t testing.TB, template, options string) *Database {
	t.Helper()
	d := create(t, template, options)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := d.execute(ctx, `DROP DATABASE "`+d.Name+`" WITH (FORCE)`); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return d
}

func create(t testing.TB, template, options string) *Database {
	t.Helper()
	server, err := shared.getPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := &Database{
		Host:     server.Host,
		Port:     server.Port,
		User:     server.User,
		Password: server.Password,
		Name:     uniqueName(t),
		server:   server,
	}
	// Files are copied in half the time that it takes to log their pages.
	if err := d.execute(t.Context(), `CREATE DATABASE "`+d.Name+`" TEMPLATE "`+template+`" STRATEGY file_copy `+options); err != nil {
		t.Fatalf("create a database for the test: %v", err)
	}
	return d
}

// execute runs a statement outside the test's database.
func (d *Database) execute(ctx context.Context, sql string) error {
	conn, err := pgconn.Connect(ctx, d.server.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql).ReadAll()
	return err
}

// OwnPostgres starts a server for one test alone, which may kill and restart
// it. It ends with the test. Without a Dir in the options, it gets a temporary
// one.
func OwnPostgres(t testing.TB, o localserver.PostgresOptions) *localserver.Postgres {
	t.Helper()
	if o.Dir == "" {
		o.Dir = testDir(t)
	}
	p, err := localserver.StartPostgres(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// testDir makes a folder that is removed when the test ends.
func testDir(t testing.TB) string {
	t.Helper()
	dir, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the test's folder: %v", err)
		}
	})
	return dir
}
