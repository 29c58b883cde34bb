package systemtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

// A site is where instances of the service work together: a virtual host, a
// database, and the settings that lead there.
type site struct {
	settings settings
	amqpURL  string
	db       *pgx.Conn
	dbURL    string
}

// migrated is a database as the program's own migrate leaves it.
var migrated testservers.Template

// newSite makes a site that is the test's own, with its schema up to date.
func newSite(t *testing.T) *site {
	t.Helper()
	return siteOf(t, migrated.Postgres(t, func(d *testservers.Database) {
		migrate(t, databaseSettings(d).with(settings{"database.encryption_key": newKey()}))
	}))
}

// emptySite makes a site with nothing in its database.
func emptySite(t *testing.T) *site {
	t.Helper()
	return siteOf(t, testservers.Postgres(t))
}

func siteOf(t *testing.T, database *testservers.Database) *site {
	t.Helper()
	broker := testservers.RabbitMQ(t)
	s := &site{amqpURL: broker.URL(), dbURL: database.URL(), settings: databaseSettings(database).with(settings{
		"amqp.host":               broker.Host,
		"amqp.port":               strconv.Itoa(broker.Port),
		"amqp.vhost":              broker.VHost,
		"amqp.login":              broker.User,
		"amqp.password":           broker.Password,
		"database.encryption_key": newKey(),
		"cluster.instance":        "acceptance",
		"cluster.partitions":      "4",
		"http.listen":             "127.0.0.1:0",
		"log.level":               "debug", // must hold no secret either
	})}
	s.db = s.connect(t)
	return s
}

// moveTo gives the site a virtual host of another broker.
func (s *site) moveTo(t *testing.T, broker *localserver.RabbitMQ) {
	t.Helper()
	vhost := s.settings["amqp.vhost"]
	if err := broker.Management.CreateVHost(t.Context(), vhost); err != nil {
		t.Fatal(err)
	}
	s.settings["amqp.port"] = strconv.Itoa(broker.Port)
	s.amqpURL = broker.URL(vhost)
}

// moveInto gives the site a database of another server, and its schema.
func (s *site) moveInto(t *testing.T, server *localserver.Postgres) {
	t.Helper()
	name := s.settings["database.postgres.database"]
	s.dbURL = server.URL("postgres")
	s.db = s.connect(t)
	s.exec(t, `CREATE DATABASE "`+name+`"`)
	s.settings["database.postgres.port"] = strconv.Itoa(server.Port)
	s.settings["database.postgres.user"] = server.User
	s.settings["database.postgres.password"] = server.Password
	s.dbURL = server.URL(name)
	s.db = s.connect(t)
	s.migrate(t)
}

// newKey returns an encryption key that a log can be searched for.
func newKey() string { return "s3cret" + (rand.Text() + rand.Text())[:36] + "A=" }

// connect opens a connection to the site's database.
func (s *site) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.dbURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// exec runs SQL statements.
func (s *site) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := s.db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// count returns the number that a query selects.
func (s *site) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	if err := s.db.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// contents returns all rows of users and services, as one text.
func (s *site) contents(t *testing.T) (text string) {
	t.Helper()
	err := s.db.QueryRow(t.Context(), `SELECT
		coalesce((SELECT json_agg(u ORDER BY u.id) FROM users u), '[]')::text || E'\n' ||
		coalesce((SELECT json_agg(s ORDER BY s.user_id, s.sv_name) FROM services s), '[]')::text`).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// databaseSettings lead to a database.
func databaseSettings(d *testservers.Database) settings {
	return settings{
		"database.postgres.host":     d.Host,
		"database.postgres.port":     strconv.Itoa(d.Port),
		"database.postgres.database": d.Name,
		"database.postgres.user":     d.User,
		"database.postgres.password": d.Password,
	}
}

// migrate brings the site's schema up to date.
func (s *site) migrate(t *testing.T) {
	t.Helper()
	migrate(t, s.settings)
}

// migrate brings a schema up to date, by the program.
func migrate(t *testing.T, s settings) {
	t.Helper()
	if status, _, stderr := runToEnd(t, s.environ(), "migrate"); status != 0 {
		t.Fatalf("migrate ended with %d: %s", status, stderr)
	}
}

// A service is an instance that serves.
type service struct {
	*process
	url string // of its http.listen
}

var instances atomic.Int64

// serve starts an instance and returns when it is ready. When the test ends the
// instance is asked to stop, if it has not ended yet, and has to end with 0.
func (s *site) serve(t *testing.T, changed ...settings) *service {
	t.Helper()
	name := settings{"cluster.instance": fmt.Sprintf("acceptance-%d", instances.Add(1))}
	return s.ready(t, launch(t, s.settings.with(name).with(changed...).environ(), "serve"))
}

// ready returns the instance that a process is, once it is ready, and sees to its
// end as serve does.
func (s *site) ready(t *testing.T, p *process) *service {
	t.Helper()
	v := &service{process: p}
	t.Cleanup(func() {
		if !p.awaited && !t.Failed() {
			v.stop(t)
		}
	})
	v.awaitReady(t)
	return v
}

func (v *service) awaitReady(t *testing.T) {
	t.Helper()
	eventually(t, "the instance is ready", func() bool {
		select {
		case <-v.ended:
			t.Fatalf("the instance ended with %d", v.cmd.ProcessState.ExitCode())
		default:
		}
		if v.url == "" {
			v.url = listenURL(v.stderr.String())
		}
		return v.url != "" && v.probe("/readyz") == http.StatusOK
	})
}

// listenURL finds where an instance says that it listens.
func listenURL(log string) string {
	for line := range strings.Lines(log) {
		var entry struct{ Listen string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Listen != "" {
			return "http://" + entry.Listen
		}
	}
	return ""
}

// probe returns the status of an HTTP request, 0 for no answer.
func (v *service) probe(path string) int {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(v.url + path)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// stop asks the instance to stop, which it has to do with status 0.
func (v *service) stop(t *testing.T) {
	t.Helper()
	v.terminate(t) // an error if it has ended
	if status := v.await(t, patience); status != 0 {
		t.Errorf("SIGTERM ended the instance with %d", status)
	}
}

// oneConnection fails unless the instance has served over one connection all
// the time.
func (v *service) oneConnection(t *testing.T) {
	t.Helper()
	if n := v.stderr.count("serving"); n != 1 {
		t.Errorf("the instance has begun to serve %d times", n)
	}
	select {
	case <-v.ended:
		t.Errorf("the instance has ended")
	case <-time.After(0):
	}
}

// serveAs starts an instance under a name.
func (s *site) serveAs(t *testing.T, name string, changed ...settings) *service {
	t.Helper()
	return s.serve(t, append(changed, settings{"cluster.instance": name})...)
}

// fetch returns what the instance serves over HTTP.
func (v *service) fetch(t *testing.T, path string) string {
	t.Helper()
	response, err := http.Get(v.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, response.Status, err)
	}
	return string(body)
}
