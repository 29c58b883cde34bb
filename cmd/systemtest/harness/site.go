package harness

import (
	"context"
	"crypto/rand"
	"crypto/tls"
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

// A Site is a virtual host, a database, and settings with which instances of the service
// work together on both.
type Site struct {
	Settings Settings
	AMQPURL  string
	DB       *pgx.Conn
	dbURL    string

	database *testservers.Database // of the shared server
}

// migrated is a database as the program's own migrate leaves it.
var migrated testservers.Template

// NewSite makes a site for one test. Its schema is up to date.
func NewSite(t *testing.T) *Site {
	t.Helper()
	return siteOf(t, migrated.Postgres(t, func(d *testservers.Database) {
		migrate(t, databaseSettings(d).With(Settings{"database.encryption_key": NewKey()}))
	}))
}

// NewEmptySite makes a site with nothing in its database.
func NewEmptySite(t *testing.T) *Site {
	t.Helper()
	return siteOf(t, testservers.Postgres(t))
}

func siteOf(t *testing.T, database *testservers.Database) *Site {
	t.Helper()
	broker := testservers.RabbitMQ(t)
	s := &Site{AMQPURL: broker.URL(), dbURL: database.URL(), database: database, Settings: databaseSettings(database).With(Settings{
		"amqp.host":               broker.Host,
		"amqp.port":               strconv.Itoa(broker.Port),
		"amqp.vhost":              broker.VHost,
		"amqp.login":              broker.User,
		"amqp.password":           broker.Password,
		"database.encryption_key": NewKey(),
		"cluster.instance":        "acceptance",
		"cluster.partitions":      "4",
		"cluster.queue_type":      "quorum",
		"http.listen":             "127.0.0.1:0",
		"log.level":               "debug", // must hold no secret either
	})}
	s.DB = s.Connect(t)
	return s
}

// UseBroker gives the site a virtual host of another broker.
func (s *Site) UseBroker(t *testing.T, broker *localserver.RabbitMQ) {
	t.Helper()
	vhost := s.Settings["amqp.vhost"]
	if err := broker.Management.CreateVHost(t.Context(), vhost); err != nil {
		t.Fatal(err)
	}
	s.Settings["amqp.port"] = strconv.Itoa(broker.Port)
	s.AMQPURL = broker.URL(vhost)
}

// UsePostgres gives the site a database of another server, and its schema.
func (s *Site) UsePostgres(t *testing.T, server *localserver.Postgres) {
	t.Helper()
	name := s.Settings["database.postgres.database"]
	s.dbURL = server.URL("postgres")
	s.DB = s.Connect(t)
	s.Exec(t, `CREATE DATABASE "`+name+`"`)
	s.Settings["database.postgres.port"] = strconv.Itoa(server.Port)
	s.Settings["database.postgres.user"] = server.User
	s.Settings["database.postgres.password"] = server.Password
	s.dbURL = server.URL(name)
	s.DB = s.Connect(t)
	s.Migrate(t)
}

// Pooled returns the settings with which a site on the shared server uses it through PgBouncer.
// mode is a pool_mode.
func (s *Site) Pooled(t *testing.T, mode string) Settings {
	t.Helper()
	return s.Settings.With(Settings{"database.postgres.host": testservers.PgBouncer(t, s.database, mode).Address})
}

// NewKey returns a random encryption key, which contains one of the [Secrets].
func NewKey() string { return "s3cret" + (rand.Text() + rand.Text())[:36] + "A=" }

// Connect opens a connection to the site's database.
func (s *Site) Connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.dbURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// Exec runs SQL statements.
func (s *Site) Exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := s.DB.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Count returns the number that a query selects.
func (s *Site) Count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	if err := s.DB.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// Unnotified returns how many changes are not known in the database to be notified. The
// instances note each second what was notified, and when they end.
func (s *Site) Unnotified(t *testing.T) int {
	t.Helper()
	return s.Count(t, `SELECT count(*) FROM ident_log JOIN ident_partitions AS p USING (partition)
		LEFT JOIN ident_held_back AS h USING (partition, user_id)
		WHERE ident_log.position > p.notified OR ident_log.position >= h.position`)
}

// Contents returns all rows of users and services, as one text.
func (s *Site) Contents(t *testing.T) (text string) {
	t.Helper()
	err := s.DB.QueryRow(t.Context(), `SELECT
		coalesce((SELECT json_agg(u ORDER BY u.id) FROM users u), '[]')::text || E'\n' ||
		coalesce((SELECT json_agg(s ORDER BY s.user_id, s.sv_name) FROM services s), '[]')::text`).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// databaseSettings lead to a database.
func databaseSettings(d *testservers.Database) Settings {
	return Settings{
		"database.postgres.host":     d.Host,
		"database.postgres.port":     strconv.Itoa(d.Port),
		"database.postgres.database": d.Name,
		"database.postgres.user":     d.User,
		"database.postgres.password": d.Password,
	}
}

// Migrate brings the site's schema up to date.
func (s *Site) Migrate(t *testing.T) {
	t.Helper()
	migrate(t, s.Settings)
}

// migrate brings a schema up to date, by the program.
func migrate(t *testing.T, s Settings) {
	t.Helper()
	if status, _, stderr := Run(t, s.Environ(), "migrate"); status != 0 {
		t.Fatalf("migrate ended with %d: %s", status, stderr)
	}
}

// A Instance is an instance that serves.
type Instance struct {
	*Process
	URL string // of its http.listen
}

var instances atomic.Int64

// Serve starts an instance, as [Site.ServeBy] does.
func (s *Site) Serve(t *testing.T, changed ...Settings) *Instance {
	t.Helper()
	name := Settings{"cluster.instance": fmt.Sprintf("acceptance-%d", instances.Add(1))}
	settings := s.Settings.With(name).With(changed...)
	return s.ServeBy(t, func() *Process { return Launch(t, settings.Environ(), "serve") })
}

// ServeBy starts an instance by launch and returns when it is ready. Until then it starts the instance
// again if a server was out of reach, as Kubernetes does: other tests keep the servers busy.
// When the test ends, the instance is stopped if it still runs, and the test fails unless its status is
// 0.
func (s *Site) ServeBy(t *testing.T, launch func() *Process) *Instance {
	t.Helper()
	for started := time.Now(); ; {
		v := s.instance(t, launch())
		switch status := v.awaitReady(t); {
		case status < 0:
			return v
		case status != unreachable || time.Since(started) > Timeout:
			t.Fatalf("the instance ended with %d", status)
		}
		t.Log("an instance found a server out of reach, and starts again")
	}
}

// unreachable is the status of an instance that found a server out of reach.
const unreachable = 129

// Adopt returns the instance that a process is once it is ready, and stops it when the
// test ends, as [Site.ServeBy] does.
func (s *Site) Adopt(t *testing.T, p *Process) *Instance {
	t.Helper()
	v := s.instance(t, p)
	v.AwaitReady(t)
	return v
}

// instance returns the instance that a process is, and stops it when the test ends.
func (s *Site) instance(t *testing.T, p *Process) *Instance {
	t.Helper()
	v := &Instance{Process: p}
	t.Cleanup(func() {
		if !p.awaited && !t.Failed() {
			v.Stop(t)
		}
	})
	return v
}

func (v *Instance) AwaitReady(t *testing.T) {
	t.Helper()
	if status := v.awaitReady(t); status >= 0 {
		t.Fatalf("the instance ended with %d", status)
	}
}

// awaitReady returns the status of the instance if it ended before it was ready, else -1.
func (v *Instance) awaitReady(t *testing.T) (status int) {
	t.Helper()
	status = -1
	Eventually(t, "the instance is ready", func() bool {
		select {
		case <-v.Done:
			status, v.awaited = v.Cmd.ProcessState.ExitCode(), true
			return true
		default:
		}
		if v.URL == "" {
			v.URL = listenURL(v.Stderr.String())
		}
		return v.URL != "" && v.Probe("/readyz") == http.StatusOK
	})
	return status
}

// listenURL returns the address in the log of an instance.
func listenURL(log string) string {
	for line := range strings.Lines(log) {
		var entry struct {
			Listen string
			TLS    bool
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Listen != "" {
			if entry.TLS {
				return "https://" + entry.Listen
			}
			return "http://" + entry.Listen
		}
	}
	return ""
}

// Probe returns the status of an HTTP request, 0 without a response. As a probe of
// Kubernetes, it does not verify the certificate.
func (v *Instance) Probe(path string) int {
	client := http.Client{Timeout: Timeout, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Get(v.URL + path)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// Stop sends SIGTERM and fails unless the status is 0.
func (v *Instance) Stop(t *testing.T) {
	t.Helper()
	v.Terminate(t) // an error if it has ended
	if status := v.AwaitExit(t, Timeout); status != 0 {
		t.Errorf("SIGTERM ended the instance with %d", status)
	}
}

// CheckOneConnection fails if the instance has exited or has lost its connection to the
// broker.
func (v *Instance) CheckOneConnection(t *testing.T) {
	t.Helper()
	if n := v.Stderr.Count("serving"); n != 1 {
		t.Errorf("the instance has started to serve %d times", n)
	}
	select {
	case <-v.Done:
		t.Errorf("the instance has ended")
	case <-time.After(0):
	}
}

// ServeAs starts an instance under a name.
func (s *Site) ServeAs(t *testing.T, name string, changed ...Settings) *Instance {
	t.Helper()
	return s.Serve(t, append(changed, Settings{"cluster.instance": name})...)
}

// Fetch returns what the instance serves over HTTP.
func (v *Instance) Fetch(t *testing.T, path string) string {
	t.Helper()
	response, err := http.Get(v.URL + path)
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
