package systemtest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// serverKeys are the settings that lead to each server.
var serverKeys = map[string]string{"RabbitMQ": "amqp.port", "Postgres": "database.postgres.port"}

// An ending is a process that is to end, for want of a server.
type ending struct {
	name  string
	p     *process
	since time.Time
}

// check fails unless the process ends with 129, soon, and says why.
func (e *ending) check(t *testing.T) {
	t.Run(e.name, func(t *testing.T) {
		if status := e.p.await(t, 3*giveUp); status != 129 {
			t.Errorf("ended with %d", status)
		}
		took := e.p.endedAt.Sub(e.since)
		t.Logf("it took %.1f s to end", took.Seconds())
		if took > giveUp {
			t.Errorf("it took %.1f s to end", took.Seconds())
		}
		if !strings.Contains(e.p.stderr.String(), "out of reach") {
			t.Errorf("it does not say why: %s", e.p.stderr.String())
		}
	})
}

func TestServerOutOfReachAtTheStartEndsTheInstanceWith129(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	silent := func(key string) string {
		k := newLink(t, s.settings[key])
		k.silence()
		return k.port()
	}
	var all []ending
	for name, wrong := range map[string]settings{
		"RabbitMQ where nothing listens": {"amqp.port": freePort(t)},
		"RabbitMQ where nobody answers":  {"amqp.port": silent("amqp.port")},
		"Postgres where nothing listens": {"database.postgres.port": freePort(t)},
		"Postgres where nobody answers":  {"database.postgres.port": silent("database.postgres.port")},
		"a wrong Postgres password":      {"database.postgres.password": "s3cret-wrong"},
		"a virtual host not there":       {"amqp.vhost": "nowhere"},
		"a database not there":           {"database.postgres.database": "nowhere"},
		"a host not there":               {"amqp.host": "nowhere.invalid"},
	} {
		for _, command := range []string{"serve", "migrate", "rekey"} {
			if _, ok := wrong["database.postgres.port"]; ok || command == "serve" {
				all = append(all, ending{command + ", " + name, launch(t, s.settings.with(wrong).environ(), command), time.Now()})
			}
		}
	}
	for _, e := range all {
		e.check(t)
	}
}

// Insisting is no reason not to stop when asked.
func TestInsistingInstanceStopsWhenAsked(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, key := range serverKeys {
		p := launch(t, s.settings.with(settings{key: freePort(t), "amqp.insist": "true"}).environ(), "serve")
		eventually(t, "it has tried", func() bool { return strings.Contains(p.stderr.String(), "out of reach") })
		p.terminate(t)
		if status := p.await(t, giveUp); status != 0 {
			t.Errorf("ended with %d", status)
		}
	}
}

// Nor is a database that does not answer, while writes wait for it.
func TestInstanceStopsThoughTheDatabaseIsSilent(t *testing.T) {
	t.Parallel()
	const key = "database.postgres.port"
	s := newSite(t)
	k := newLink(t, s.settings[key])
	v := s.serve(t, settings{key: k.port(), "amqp.insist": "true", "shutdown.grace": "2s"})
	loadInstance(t, s, v)
	k.silence()
	v.terminate(t)
	asked := time.Now()
	if status := v.await(t, 2*giveUp); status != 0 {
		t.Errorf("ended with %d", status)
	}
	if took := v.endedAt.Sub(asked); took > giveUp {
		t.Errorf("with a grace of 2 s, it took %.1f s to end", took.Seconds())
	}
}

// While requests are under way, a lost server ends the instance just as fast.
func TestServerLostWhileServingEndsTheInstanceWith129(t *testing.T) {
	t.Parallel()
	var all []ending
	for server, key := range serverKeys {
		for how, lose := range map[string]func(*link){"closed": (*link).end, "silent": (*link).silence} {
			for _, load := range []bool{false, true} {
				s := newSite(t)
				k := newLink(t, s.settings[key])
				v := s.serve(t, settings{key: k.port()})
				if load {
					loadInstance(t, s, v)
				}
				lose(k)
				all = append(all, ending{fmt.Sprintf("%s %s, under load: %v", server, how, load), v.process, time.Now()})
			}
		}
	}
	for _, e := range all {
		e.check(t)
	}
}

// load keeps an instance busy until it or the test ends, with up to 200 requests
// at a time.
func loadInstance(t *testing.T, s *site, v *service) {
	t.Helper()
	c := s.newCaller(t)
	underWay := make(chan *message, 200)
	answered := make(chan bool, 1)
	over := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		defer close(underWay)
		for i := 0; ; i++ {
			operation, args := "create", newUser()
			if i%3 == 0 {
				operation, args = "get", dict{"user_id": 1}
			}
			m := c.request(operation, args)
			select {
			case underWay <- m:
			case <-v.ended:
				return
			case <-over:
				return
			}
			if c.publish(m) != nil {
				return
			}
		}
	})
	sending.Go(func() {
		for m := range underWay {
			select {
			case <-c.answersTo(m.CorrelationId):
				select {
				case answered <- true:
				default:
				}
			case <-v.ended:
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
	case <-time.After(patience):
		t.Fatal("no answer at all")
	}
}
