package doctor

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/internal/connect"
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

// TestOwnBroker does to a broker what the other tests must not see.
func TestOwnBroker(t *testing.T) {
	t.Parallel()
	own := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{})
	s := newSite(t)
	s.useRabbitMQ(own)
	eval := func(expression string) {
		t.Helper()
		if _, err := own.Control.Eval(t.Context(), expression); err != nil {
			t.Fatal(err)
		}
	}
	unchanged := func(t *testing.T) {
		var exchanges []struct{ Name string }
		if err := own.Management.Call(t.Context(), http.MethodGet, "/api/exchanges/%2F", nil, &exchanges); err != nil {
			t.Fatal(err)
		}
		for _, e := range exchanges {
			if strings.HasPrefix(e.Name, "glotpod") {
				t.Errorf("the exchange %s is left", e.Name)
			}
		}
	}
	t.Run("no_plugin", func(t *testing.T) {
		eval(`rabbit_registry:unregister(exchange, <<"x-consistent-hash">>).`)
		r := newReport()
		examineBroker(t.Context(), s.load(), s.options, r)
		onlyFinding(t, r, "broker-plugin", "plugin", "broker-unreachable")
	})
	alarm := func() { eval(`rabbit_disk_monitor:set_disk_free_limit("900000GB").`) }
	clear := func() { eval(`rabbit_disk_monitor:set_disk_free_limit("50MB").`) }
	t.Run("alarm_meanwhile", func(t *testing.T) {
		c, f := s.load(), new(brokerFacts)
		dialing := connect.Broker(c, quiet, "doctor", "")
		conn, err := f.sample(t.Context(), dialing)
		if err != nil {
			t.Fatal(err)
		}
		defer connect.Close(conn)
		alarm()
		ctx, cancel := context.WithTimeout(t.Context(), s.options.timeout)
		defer cancel()
		if _, ok := errors.AsType[*connect.BlockedError](f.probe(ctx, conn, dialing, c)); !ok {
			t.Error("the alarm is not recognized")
		}
		unchanged(t)
		clear()
	})
	t.Run("alarm", func(t *testing.T) {
		alarm()
		r := newReport()
		examineBroker(t.Context(), s.load(), s.options, r)
		onlyFinding(t, r, "broker-alarm", "disk", "memory")
		unchanged(t)
		clear()
	})
}

// Instances need the connections that are not examined.
func TestConnections(t *testing.T) {
	t.Parallel()
	s, f, r := newSite(t), new(brokerFacts), newReport()
	s.addBroker()
	conn, err := f.sample(t.Context(), connect.Broker(s.load(), quiet, "doctor", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer connect.Close(conn)
	if f.opened != connect.NodeSamples || f.nodes != 1 || conn.IsClosed() {
		t.Errorf("%d connections, %d nodes", f.opened, f.nodes)
	}
	s.put("/api/vhost-limits/%s/max-connections", limit(2))
	other, err := amqp.Dial(s.broker.URL())
	for start := time.Now(); err != nil && time.Since(start) < 10*time.Second; { // the broker counts late
		time.Sleep(100 * time.Millisecond)
		other, err = amqp.Dial(s.broker.URL())
	}
	if err != nil {
		t.Fatalf("a connection that was sampled is still open: %v", err)
	}
	other.Close()
	s.put("/api/vhost-limits/%s/max-connections", limit(4))
	examineBroker(t.Context(), s.load(), s.options, r)
	if slices.Contains(r.ids(), "broker-connections") || !slices.ContainsFunc(r.Unchecked, func(u unchecked) bool { return strings.Contains(u.What, "nodes of RabbitMQ connections") }) {
		t.Errorf("findings %v, unchecked %v", r.Findings, r.Unchecked)
	}
}

// What other programs use of a limit is not left for the instances.
func TestLimitsOfOthers(t *testing.T) {
	t.Parallel()
	s, r := newSite(t), newReport()
	s.addBroker()
	s.manage()
	for _, name := range []string{"other.a", "other.b", "other.c"} {
		s.declare(name, "classic")
	}
	s.put("/api/vhost-limits/%s/max-queues", limit(4+2+2+2)) // one less than is needed
	examineBroker(t.Context(), s.load(), s.options, r)
	wantFinding(t, r, "broker-queues")
	t.Run("connections", func(t *testing.T) {
		all := make([]managedConnection, 4)
		all[0].VHost, all[1].User = "/", "ident"
		all[2].VHost, all[2].User, all[2].Client.Product = "/", "ident", "glotpod.ident"
		all[3].VHost, all[3].User = "/", "ident"
		if inVHost, ofUser := countOthers(all, "/", "ident"); inVHost != 2 || ofUser != 2 {
			t.Errorf("%d connections in the virtual host, %d of the user", inVHost, ofUser)
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
