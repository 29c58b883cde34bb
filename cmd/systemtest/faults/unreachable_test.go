package faults

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// serverKeys are the settings that lead to each server.
var serverKeys = map[string]string{"RabbitMQ": "amqp.port", "Postgres": "database.postgres.port"}

// An ending is a process that has to exit because a server is missing.
type ending struct {
	name  string
	p     *harness.Process
	since time.Time
}

// check fails unless the process exits with 129 soon and its log says why.
func (e *ending) check(t *testing.T) {
	t.Run(e.name, func(t *testing.T) {
		if status := e.p.AwaitExit(t, 3*harness.GiveUpTimeout); status != 129 {
			t.Errorf("ended with %d", status)
		}
		took := e.p.DoneAt.Sub(e.since)
		t.Logf("it took %.1f s to end", took.Seconds())
		if took > harness.GiveUpTimeout {
			t.Errorf("it took %.1f s to end", took.Seconds())
		}
		if !strings.Contains(e.p.Stderr.String(), "out of reach") {
			t.Errorf("it does not say why: %s", e.p.Stderr.String())
		}
	})
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	t.Run("at_the_start", testUnreachableAtTheStart)
	t.Run("while_serving", testUnreachableWhileServing)
	t.Run("stop_while_insisting", testUnreachableStopWhileInsisting)
	t.Run("stop_while_the_database_is_silent", testUnreachableStopWhileTheDatabaseIsSilent)
}

func testUnreachableAtTheStart(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	silent := func(key string) string {
		k := harness.NewProxy(t, s.Settings[key])
		k.Silence()
		return k.Port()
	}
	var all []ending
	for name, wrong := range map[string]harness.Settings{
		"RabbitMQ where nothing listens": {"amqp.port": harness.FreePort(t)},
		"RabbitMQ where nobody answers":  {"amqp.port": silent("amqp.port")},
		"Postgres where nothing listens": {"database.postgres.port": harness.FreePort(t)},
		"Postgres where nobody answers":  {"database.postgres.port": silent("database.postgres.port")},
		"a wrong Postgres password":      {"database.postgres.password": "s3cret-wrong"},
		"a virtual host not there":       {"amqp.vhost": "nowhere"},
		"a database not there":           {"database.postgres.database": "nowhere"},
		"a host not there":               {"amqp.host": "nowhere.invalid"},
	} {
		for _, command := range []string{"serve", "migrate", "rekey"} {
			if _, ok := wrong["database.postgres.port"]; ok || command == "serve" {
				all = append(all, ending{command + ", " + name, harness.Launch(t, s.Settings.With(wrong).Environ(), command), time.Now()})
			}
		}
	}
	for _, e := range all {
		e.check(t)
	}
}

// With amqp.insist, an instance that waits for a server still stops at SIGTERM.
func testUnreachableStopWhileInsisting(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	for _, key := range serverKeys {
		p := harness.Launch(t, s.Settings.With(harness.Settings{key: harness.FreePort(t), "amqp.insist": "true"}).Environ(), "serve")
		harness.Eventually(t, "it has tried", func() bool { return strings.Contains(p.Stderr.String(), "out of reach") })
		p.Terminate(t)
		if status := p.AwaitExit(t, harness.GiveUpTimeout); status != 0 {
			t.Errorf("ended with %d", status)
		}
	}
}

// An instance stops although a silent database keeps writes waiting.
func testUnreachableStopWhileTheDatabaseIsSilent(t *testing.T) {
	t.Parallel()
	const key = "database.postgres.port"
	s := harness.NewSite(t)
	k := harness.NewProxy(t, s.Settings[key])
	v := s.Serve(t, harness.Settings{key: k.Port(), "amqp.insist": "true", "shutdown.grace": "2s"})
	loadInstance(t, s, v)
	k.Silence()
	v.Terminate(t)
	asked := time.Now()
	if status := v.AwaitExit(t, 2*harness.GiveUpTimeout); status != 0 {
		t.Errorf("ended with %d", status)
	}
	if took := v.DoneAt.Sub(asked); took > harness.GiveUpTimeout {
		t.Errorf("with a grace of 2 s, it took %.1f s to end", took.Seconds())
	}
}

// An instance that has lost a server exits, under load just as fast.
func testUnreachableWhileServing(t *testing.T) {
	t.Parallel()
	var all []ending
	for server, key := range serverKeys {
		for how, lose := range map[string]func(*harness.Proxy){"closed": (*harness.Proxy).Close, "silent": (*harness.Proxy).Silence} {
			for _, load := range []bool{false, true} {
				s := harness.NewSite(t)
				k := harness.NewProxy(t, s.Settings[key])
				v := s.Serve(t, harness.Settings{key: k.Port()})
				if load {
					loadInstance(t, s, v)
				}
				lose(k)
				all = append(all, ending{fmt.Sprintf("%s %s, under load: %v", server, how, load), v.Process, time.Now()})
			}
		}
	}
	for _, e := range all {
		e.check(t)
	}
}

// loadInstance keeps an instance busy until the instance or the test ends, with up to
// 200 requests in flight.
func loadInstance(t *testing.T, s *harness.Site, v *harness.Instance) {
	t.Helper()
	c := s.NewCaller(t)
	underWay := make(chan *harness.Request, 200)
	answered := make(chan bool, 1)
	over := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		defer close(underWay)
		for i := 0; ; i++ {
			operation, args := "create", harness.NewUser()
			if i%3 == 0 {
				operation, args = "get", dict{"user_id": 1}
			}
			m := c.NewRequest(operation, args)
			select {
			case underWay <- m:
			case <-v.Done:
				return
			case <-over:
				return
			}
			if c.Publish(m) != nil {
				return
			}
		}
	})
	sending.Go(func() {
		for m := range underWay {
			select {
			case <-c.Replies(m.CorrelationId):
				select {
				case answered <- true:
				default:
				}
			case <-v.Done:
			case <-over:
			}
		}
	})
	t.Cleanup(func() {
		close(over)
		sending.Wait()
	})
	select {
	case <-answered:
	case <-time.After(harness.Timeout):
		t.Fatal("no reply at all")
	}
}
