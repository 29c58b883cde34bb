package testservers

import (
	"context"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/glotpod/ident/deploy/localserver"
)

// cleanupTimeout limits each cleanup after a test. The test's context is cancelled then.
const cleanupTimeout = time.Minute

// A Database belongs to one test. It is empty, or a copy of a template.
type Database struct {
	Host     string
	Port     int
	User     string // a superuser
	Password string
	Name     string

	server *localserver.Postgres
}

// Address returns host:port.
func (d *Database) Address() string { return net.JoinHostPort(d.Host, strconv.Itoa(d.Port)) }

// URL returns the database's connection URL.
func (d *Database) URL() string { return d.server.URL(d.Name) }

// Postgres creates a database on the shared server. It is dropped when the test ends,
// even if clients are still connected.
func Postgres(t testing.TB) *Database {
	t.Helper()
	// No client can connect to template0. A connected client would make CREATE
	// DATABASE fail.
	return copyOf(t, "template0", "")
}

// PostgresIn is like Postgres, and sets the locale and the encoding of the database.
func PostgresIn(t testing.TB, locale, encoding string) *Database {
	t.Helper()
	return copyOf(t, "template0", "LOCALE '"+locale+"' ENCODING '"+encoding+"'")
}

// A Template is a filled database that many tests start with a copy of. A copy takes a
// fraction of the time that filling takes.
type Template struct {
	mu   sync.Mutex // guards the following field; held while the database is filled
	name string     // of the database; "" until it is filled
}

// Postgres is like the function Postgres, and returns a copy of the template. The first
// call creates the template with fill, which must close its connections. The template
// stays until the server stops.
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

// copyOf creates a database from a template. It is dropped when the test ends.
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
	// file_copy takes half the time of wal_log, the default.
	if err := d.execute(t.Context(), `CREATE DATABASE "`+d.Name+`" TEMPLATE "`+template+`" STRATEGY file_copy `+options); err != nil {
		t.Fatalf("create a database for the test: %v", err)
	}
	return d
}

// execute runs a statement in the database postgres of the same server.
func (d *Database) execute(ctx context.Context, sql string) error {
	conn, err := pgconn.Connect(ctx, d.server.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql).ReadAll()
	return err
}

// OwnPostgres starts a server for one test, which may kill and restart it. The server is
// killed when the test ends. If o.Dir is empty, the server gets a temporary folder.
func OwnPostgres(t testing.TB, o localserver.PostgresOptions) *localserver.Postgres {
	t.Helper()
	if o.Dir == "" {
		o.Dir = Dir(t)
	}
	p, err := localserver.StartPostgres(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// Dir creates a folder that is removed when the test ends.
func Dir(t testing.TB) string {
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
