package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// A site is an installation without faults, which a test damages.
type site struct {
	t        *testing.T
	broker   *testservers.Broker
	database *testservers.Database
	settings map[string]string
	options  options
}

const (
	firstKey  = "hU0ZKsJiKyKmVfCHCHyQKIPfKXRBdoWlhbIdaVMEEnI="
	secondKey = "iU0ZKsJiKyKmVfCHCHyQKIPfKXRBdoWlhbIdaVMEEnI="
)

var migrated testservers.Template

// newSite makes an installation without servers.
func newSite(t *testing.T) *site {
	return &site{t: t, options: options{timeout: 20 * time.Second}, settings: map[string]string{
		"database.encryption_key": firstKey,
		"cluster.instance":        "one",
		"cluster.partitions":      "4",
	}}
}

// newWholeSite makes an installation with both servers.
func newWholeSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	s.addBroker()
	s.addDatabase()
	return s
}

// addBroker makes a virtual host.
func (s *site) addBroker() {
	s.t.Helper()
	b := testservers.RabbitMQ(s.t)
	s.broker = b
	maps.Copy(s.settings, map[string]string{
		"amqp.host":     b.Host,
		"amqp.port":     strconv.Itoa(b.Port),
		"amqp.vhost":    b.VHost,
		"amqp.login":    b.User,
		"amqp.password": b.Password,
	})
}

// addDatabase makes a database with the tables.
func (s *site) addDatabase() {
	s.t.Helper()
	d := migrated.Postgres(s.t, func(d *testservers.Database) {
		conn, err := pgx.Connect(s.t.Context(), d.URL())
		if err != nil {
			s.t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := store.Migrate(s.t.Context(), conn, func(int, string) {}); err != nil {
			s.t.Fatal(err)
		}
	})
	s.database = d
	maps.Copy(s.settings, map[string]string{
		"database.postgres.host":     d.Host,
		"database.postgres.port":     strconv.Itoa(d.Port),
		"database.postgres.database": d.Name,
		"database.postgres.user":     d.User,
		"database.postgres.password": d.Password,
	})
}

func (s *site) environ() (env []string) {
	for key, value := range s.settings {
		env = append(env, "GLOTPOD_IDENT__"+strings.ToUpper(strings.ReplaceAll(key, ".", "__"))+"="+value)
	}
	return env
}

// load returns the settings.
func (s *site) load() *config.Config {
	s.t.Helper()
	c, err := config.Load(s.environ())
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// set changes a setting.
func (s *site) set(key, value string) { s.settings[key] = value }

// usePostgres has the settings lead to another server.
func (s *site) usePostgres(server *localserver.Postgres) {
	s.set("database.postgres.host", server.Host)
	s.set("database.postgres.port", strconv.Itoa(server.Port))
	s.set("database.postgres.database", "postgres")
	s.set("database.postgres.user", server.User)
	s.set("database.postgres.password", server.Password)
}

// useRabbitMQ has the settings lead to another broker.
func (s *site) useRabbitMQ(server *localserver.RabbitMQ) {
	s.set("amqp.host", server.Host)
	s.set("amqp.port", strconv.Itoa(server.Port))
	s.set("amqp.login", server.User)
	s.set("amqp.password", server.Password)
}

func connectTo(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// exec runs SQL statements in the database.
func (s *site) exec(sql string) {
	s.t.Helper()
	conn := connectTo(s.t, s.database.URL())
	if _, err := conn.Exec(s.t.Context(), sql); err != nil {
		s.t.Fatal(err)
	}
}

// channel opens a channel to the virtual host.
func (s *site) channel() *amqp.Channel {
	s.t.Helper()
	conn, err := amqp.Dial(s.broker.URL())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	channel, err := conn.Channel()
	if err != nil {
		s.t.Fatal(err)
	}
	return channel
}

// declare declares a queue of a type.
func (s *site) declare(queue, kind string) {
	s.t.Helper()
	if _, err := s.channel().QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": kind}); err != nil {
		s.t.Fatal(err)
	}
}

// put sends a request to the management API. %s in the path is the virtual host.
func (s *site) put(path string, body any) {
	s.t.Helper()
	path = strings.ReplaceAll(path, "%s", url.PathEscape(s.broker.VHost))
	if err := s.broker.Management.Call(s.t.Context(), http.MethodPut, path, body, nil); err != nil {
		s.t.Fatal(err)
	}
}

// manage lets the management API be asked.
func (s *site) manage() { s.options.management = s.broker.Management.URL }

// user creates a user of the broker, and removes it at the end.
func (s *site) user(configure, write, read string) (name string) {
	s.t.Helper()
	m := s.broker.Management
	name = s.broker.VHost + "-user"
	if err := m.CreateUser(s.t.Context(), name, "secret"); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := m.DeleteUser(context.Background(), name); err != nil {
			s.t.Error(err)
		}
	})
	if err := m.Permit(s.t.Context(), name, s.broker.VHost, configure, write, read); err != nil {
		s.t.Fatal(err)
	}
	return name
}

// role makes a user of the database that owns nothing, and has the settings use it.
func (s *site) role() {
	s.t.Helper()
	name := "doctor_" + strings.ReplaceAll(s.database.Name, "-", "_")
	role := pgx.Identifier{name}.Sanitize()
	s.exec("CREATE ROLE " + role + " LOGIN PASSWORD 'secret'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO " + role)
	s.t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), s.database.URL())
		if err != nil {
			s.t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			s.t.Error(err)
		}
	})
	s.set("database.postgres.user", name)
	s.set("database.postgres.password", "secret")
}

func (r *report) ids() (ids []string) {
	for _, f := range r.Findings {
		ids = append(ids, f.ID)
	}
	return ids
}

// fastServer are findings about the shared database server, which does not write to the disk.
var fastServer = []string{"fsync", "full-page-writes"}

func TestHealthy(t *testing.T) {
	t.Parallel()
	s := newWholeSite(t)
	s.manage()
	before := s.objects()
	r := examine(t.Context(), s.environ(), s.options)
	for _, f := range r.Findings {
		if !slices.Contains(fastServer, f.ID) {
			t.Errorf("%s: %s", f.ID, f.Seen)
		}
	}
	if len(r.Unchecked) > 0 {
		t.Errorf("unchecked: %v", r.Unchecked)
	}
	if after := s.objects(); !slices.Equal(after, before) {
		t.Errorf("the virtual host has %v, and had %v", after, before)
	}
}

// objects returns the names of the queues and exchanges of the virtual host.
func (s *site) objects() (names []string) {
	s.t.Helper()
	for _, path := range []string{"/api/queues/", "/api/exchanges/"} {
		var all []struct{ Name string }
		if err := s.broker.Management.Call(s.t.Context(), http.MethodGet, path+url.PathEscape(s.broker.VHost), nil, &all); err != nil {
			s.t.Fatal(err)
		}
		for _, x := range all {
			names = append(names, x.Name)
		}
	}
	slices.Sort(names)
	return names
}

func TestCommand(t *testing.T) {
	t.Parallel()
	s := newWholeSite(t)
	p := cli.Program{Name: "doctor", Version: "v1", New: New}
	run := func(args ...string) (int, string) {
		var out, errors bytes.Buffer
		status := p.Run(t.Context(), &cli.Env{Environ: s.environ(), Stdout: &out, Stderr: &errors}, args)
		return status, out.String()
	}
	t.Run("words", func(t *testing.T) {
		status, out := run()
		if status != cli.StatusFailure || !strings.Contains(out, "problem fsync: fsync is off\n    Set fsync = on.") || !strings.Contains(out, "--management-url is not given") {
			t.Errorf("status %d: %s", status, out)
		}
	})
	t.Run("json", func(t *testing.T) {
		status, out := run("--json", "--instances", "2")
		var r report
		if err := json.Unmarshal([]byte(out), &r); err != nil || status != cli.StatusFailure || !slices.Contains(r.ids(), "fsync") {
			t.Errorf("status %d, %v: %s", status, err, out)
		}
	})
	t.Run("wrong_arguments", func(t *testing.T) {
		if status, _ := run("--instances", "-1"); status != cli.StatusUsage {
			t.Errorf("status %d", status)
		}
	})
	t.Run("nothing_to_mend", func(t *testing.T) {
		r := newReport()
		r.add("broker-plain", "seen")
		if r.hasProblem() {
			t.Error("an advice counts as a problem")
		}
	})
}

// wantFinding checks that a report has a finding, and that all findings are complete.
func wantFinding(t *testing.T, r *report, id string) {
	t.Helper()
	if !slices.Contains(r.ids(), id) {
		t.Errorf("there is no finding %s, only %v, unchecked %v", id, r.Findings, r.Unchecked)
	}
	for _, f := range r.Findings {
		if f.Level == "" || f.Seen == "" || f.Remedy == "" || strings.Contains(f.Seen, "%!") {
			t.Errorf("the finding is incomplete: %v", f)
		}
	}
}

// TestEveryKind checks that each kind of finding has a test.
func TestEveryKind(t *testing.T) {
	var tested []string
	for _, some := range []map[string]func(*site){wrongSettings, brokerDamages, databaseDamages} {
		tested = slices.AppendSeq(tested, maps.Keys(some))
	}
	tested = slices.AppendSeq(tested, maps.Keys(facts))
	for id := range kinds {
		if !slices.Contains(tested, id) {
			t.Errorf("no test of %s", id)
		}
	}
	for _, id := range tested {
		if _, ok := kinds[id]; !ok {
			t.Errorf("%s is no kind of finding", id)
		}
	}
}

// settings returns the default settings with an encryption key.
func settings(t *testing.T, key string) *config.Config {
	t.Helper()
	c, err := config.Load([]string{"GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEY=" + key, "GLOTPOD_IDENT__CLUSTER__INSTANCE=one"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
