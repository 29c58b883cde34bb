package doctor

import (
	"net"
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

// silentHost returns the address of a host that accepts connections and never replies.
func silentHost(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// onlyFinding checks that a report has one finding, apart from those of a fast server, and that it
// names a host and not another one.
func onlyFinding(t *testing.T, r *report, id, named, other string) {
	t.Helper()
	found := slices.DeleteFunc(slices.Clone(r.Findings), func(f finding) bool { return slices.Contains(fastServer, f.ID) })
	if len(found) != 1 || found[0].ID != id || !strings.Contains(found[0].Seen, named) || strings.Contains(found[0].Seen, other) {
		t.Errorf("want only %s of %s, got %v, unchecked %v", id, named, found, r.Unchecked)
	}
	if strings.Contains(found[0].Seen, "\n") {
		t.Errorf("the finding has several lines: %q", found[0].Seen)
	}
}

// A host that does not reply leaves time for the others.
func TestSilentHost(t *testing.T) {
	t.Parallel()
	t.Run("broker", func(t *testing.T) {
		t.Parallel()
		s, r, silent := newSite(t), newReport(), silentHost(t)
		s.addBroker()
		s.set("amqp.host", silent+","+s.broker.Address())
		f := examineBroker(t.Context(), s.load(), s.options, r)
		onlyFinding(t, r, "broker-unreachable", silent, s.broker.Address())
		if f.largest < pageBytes || f.defaultKind == "" {
			t.Errorf("the other host is not examined: %+v", f)
		}
	})
	t.Run("database", func(t *testing.T) {
		t.Parallel()
		s, r, silent := newSite(t), newReport(), silentHost(t)
		s.addDatabase()
		s.set("database.postgres.host", silent+","+s.database.Address())
		examineDatabase(t.Context(), s.load(), s.options, r)
		onlyFinding(t, r, "database-unreachable", silent[len("127.0.0.1:"):], s.database.Address())
		if len(r.Unchecked) > 0 {
			t.Errorf("unchecked: %v", r.Unchecked)
		}
	})
}

// TestStandbyBesidePrimary lists a standby before its primary, and then alone.
func TestStandbyBesidePrimary(t *testing.T) {
	t.Parallel()
	primary := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	standby := testservers.OwnPostgres(t, localserver.PostgresOptions{StandbyOf: primary})
	s := newSite(t)
	s.usePostgres(primary)
	address := func(p *localserver.Postgres) string { return config.Address{Host: p.Host, Port: p.Port}.String() }
	for name, test := range map[string]struct {
		hosts    []string
		readOnly bool
	}{
		"standby_first": {[]string{address(standby), address(primary)}, false},
		"primary_first": {[]string{address(primary), address(standby)}, false},
		"only_standby":  {[]string{address(standby)}, true},
		"only_standbys": {[]string{address(standby), address(standby)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReport()
			s.set("database.postgres.host", strings.Join(test.hosts, ","))
			examineDatabase(t.Context(), s.load(), s.options, r)
			if slices.Contains(r.ids(), "database-unreachable") || slices.Contains(r.ids(), "database-read-only") != test.readOnly {
				t.Errorf("findings %v", r.Findings)
			}
		})
	}
}

// An ordinary user does not see what the sessions of others are.
func TestSessionsOfOthers(t *testing.T) {
	t.Parallel()
	own := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	if _, err := connectTo(t, own.URL("postgres")).Exec(t.Context(), "CREATE ROLE ordinary LOGIN PASSWORD 'secret'"); err != nil {
		t.Fatal(err)
	}
	const others = 4
	for range others {
		connectTo(t, own.URL("postgres"))
	}
	conn := connectTo(t, strings.Replace(own.URL("postgres"), own.User+":"+own.Password, "ordinary:secret", 1))
	var f databaseFacts
	var allowed int
	if err := conn.QueryRow(t.Context(), `SELECT current_setting('max_connections')::int
		- current_setting('superuser_reserved_connections')::int`).Scan(&allowed); err != nil {
		t.Fatal(err)
	}
	if err := f.readLimits(t.Context(), conn); err != nil || f.allowed != allowed-others-1 {
		t.Errorf("%d connections are left of %d, %v", f.allowed, allowed, err)
	}
}

// A schema may have a name that needs quotes.
func TestQuotedSchema(t *testing.T) {
	t.Parallel()
	s, r := newSite(t), newReport()
	s.addDatabase()
	s.exec(`CREATE SCHEMA "glotpod.ident"`)
	s.alter(`SET search_path = "glotpod.ident"`)
	examineDatabase(t.Context(), s.load(), s.options, r)
	if slices.Contains(r.ids(), "database-unreachable") || slices.ContainsFunc(r.Unchecked, func(u unchecked) bool { return u.What == "PostgreSQL" }) {
		t.Errorf("findings %v, unchecked %v", r.Findings, r.Unchecked)
	}
	t.Run("refused_question", func(t *testing.T) {
		s, r := newSite(t), newReport()
		s.addDatabase()
		s.role()
		s.exec("REVOKE SELECT ON pg_trigger FROM PUBLIC")
		examineDatabase(t.Context(), s.load(), s.options, r)
		if !slices.ContainsFunc(r.Unchecked, func(u unchecked) bool { return u.What == "PostgreSQL" }) || slices.Contains(r.ids(), "database-unreachable") {
			t.Errorf("findings %v, unchecked %v", r.Findings, r.Unchecked)
		}
	})
}

func TestLacksPlugin(t *testing.T) {
	for code, want := range map[int]bool{amqp.CommandInvalid: true, amqp.PreconditionFailed: true, amqp.AccessRefused: false} {
		if got := lacksPlugin(&amqp.Error{Code: code, Server: true}); got != want {
			t.Errorf("code %d: %v", code, got)
		}
	}
}
