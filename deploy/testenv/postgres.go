package testenv

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/glotpod/ident/deploy/private"
)

// cleanupTimeout bounds what is done after a test, when its context has ended.
const cleanupTimeout = time.Minute

// A Database is an empty database that belongs to one test.
type Database struct {
	Host     string
	Port     int
	User     string // a superuser
	Password string
	Name     string

	server *private.Postgres
}

// URL returns the database's address, as pgx takes it.
func (d *Database) URL() string { return d.server.URL(d.Name) }

// Postgres makes a database on the shared server. It is dropped when the test
// ends, under whoever is still connected to it.
func Postgres(t testing.TB) *Database {
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
	// template0 has no visitors, who would get in the way of others that copy it.
	// Its files are copied in half the time that it takes to log their pages.
	if err := d.execute(t.Context(), `CREATE DATABASE "`+d.Name+`" TEMPLATE template0 STRATEGY file_copy`); err != nil {
		t.Fatalf("create a database for the test: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := d.execute(ctx, `DROP DATABASE "`+d.Name+`" WITH (FORCE)`); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
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
func OwnPostgres(t testing.TB, o private.PostgresOptions) *private.Postgres {
	t.Helper()
	if o.Dir == "" {
		o.Dir = testDir(t)
	}
	p, err := private.StartPostgres(t.Context(), o)
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
