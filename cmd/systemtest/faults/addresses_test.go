package faults

import (
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// TestSeveralHosts: an instance and the commands work while some of the hosts are away.
func TestSeveralHosts(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	const away = "127.0.0.1:1"
	settings := s.Settings.With(harness.Settings{
		"amqp.host":              away + ", " + s.Settings["amqp.host"] + "," + away,
		"database.postgres.host": away + "," + s.Settings["database.postgres.host"],
	})
	if status, _, stderr := harness.Run(t, settings.Environ(), "migrate", "--check"); status != 0 {
		t.Errorf("migrate ended with %d: %s", status, stderr)
	}
	v := s.Adopt(t, harness.Launch(t, settings.Environ(), "serve"))
	v.AwaitReady(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
	for range 4 { // each begins with a random host
		if status, stdout, stderr := harness.Run(t, settings.Environ(), "status"); status != 0 {
			t.Errorf("status ended with %d: %s%s", status, stdout, stderr)
		}
	}
	v.Stop(t)
}

// TestLostHost: an instance whose broker node is lost goes on with another one, also if it does not
// insist.
func TestLostHost(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	nodes := []*harness.Proxy{harness.NewProxy(t, s.Settings["amqp.port"]), harness.NewProxy(t, s.Settings["amqp.port"])}
	nodes[1].Refuse() // so that all connections are to the other one
	v := s.Serve(t, harness.Settings{"amqp.host": "127.0.0.1:" + nodes[0].Port() + ", 127.0.0.1:" + nodes[1].Port()})
	nodes[1].Admit()
	nodes[0].Refuse()
	harness.Eventually(t, "the loss is noticed", func() bool { return v.Stderr.Count("session with RabbitMQ ended, trying all hosts") > 0 })
	v.AwaitReady(t)
	s.NewCaller(t).Create(t, harness.NewUser())
	v.Stop(t)
}

// TestPgBouncer: the service works through PgBouncer in session mode, with the limits of its own
// sessions. In another mode it does not start.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	t.Run("session", func(t *testing.T) {
		t.Parallel()
		s := harness.NewSite(t)
		settings := s.Pooled(t, "session")
		if status, _, stderr := harness.Run(t, settings.Environ(), "migrate"); status != 0 {
			t.Fatalf("migrate ended with %d: %s", status, stderr)
		}
		v := s.Adopt(t, harness.Launch(t, settings.Environ(), "serve"))
		v.AwaitReady(t)
		c := s.NewCaller(t)
		u := c.Create(t, harness.NewUser("github"))
		s.AwaitForeignWrites(t, c) // by notifications of the database
		c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
		v.Stop(t)
	})
	for _, mode := range []string{"transaction", "statement"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := harness.NewSite(t)
			settings := s.Pooled(t, mode)
			checkSetup(t, settings, "PgBouncer needs pool_mode = session")
			for _, command := range [][]string{{"migrate"}, {"migrate", "--check"}, {"export"}, {"rekey"}} {
				status, _, stderr := harness.Run(t, settings.Environ(), command...)
				if status != 78 || !strings.Contains(stderr, "PgBouncer needs pool_mode = session") {
					t.Errorf("%s ended with %d: %s", command, status, stderr)
				}
			}
		})
	}
}
