package systemtest

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

// A stubborn caller creates users one after another, and asks again, under the
// same message_id and from a new connection if need be, until it is answered.
type stubborn struct {
	url     string
	t       *testing.T
	stop    context.Context
	created []dict // as they were created, with their ids
	retries int
}

func (b *stubborn) run() {
	var c *caller
	defer func() {
		if c != nil {
			c.conn.Close()
		}
	}()
	for b.stop.Err() == nil {
		u := newUser("github", "facebook")
		id := uuid.NewString()
		begin := time.Now()
		for answered := false; !answered; {
			if time.Since(begin) > 2*patience {
				b.t.Errorf("a request was not answered in %v", 2*patience)
				return
			}
			if c == nil || c.conn.IsClosed() {
				var err error
				if c, err = dialCaller(b.url); err != nil {
					c = nil
					time.Sleep(50 * time.Millisecond)
					continue
				}
			}
			var a answer
			if a, answered = tryCreate(c, id, u); !answered {
				b.retries++
				continue
			}
			result, ok := a.tree.(dict)["result"].(dict)
			switch {
			case ok:
				b.created = append(b.created, changed(u, dict{"id": result["user_id"]}))
			case a.code() == "invocation_failed":
				answered = false
				b.retries++
			default:
				b.t.Errorf("a create was answered with %v", a.tree)
			}
		}
	}
}

// try asks once. It reports false where no answer came.
func tryCreate(c *caller, messageID string, u dict) (answer, bool) {
	m := c.request("create", u)
	m.MessageId = messageID
	closed := c.conn.NotifyClose(make(chan *amqp.Error, 1))
	if c.publish(m) != nil {
		return answer{}, false
	}
	select {
	case a := <-c.answersTo(m.CorrelationId):
		return a, a.err == nil
	case <-closed:
	case <-time.After(5 * time.Second):
	}
	return answer{}, false
}

// survives has stubborn callers ask while something happens to a server, and
// fails unless each request was carried out, once.
func survives(t *testing.T, s *site, v *service, outage func()) {
	t.Helper()
	stop, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer cancel()
	var all []*stubborn
	for range 8 {
		b := &stubborn{url: s.amqpURL, t: t, stop: stop}
		all = append(all, b)
		callers.Go(b.run)
	}
	users := func() int { return s.count(t, "SELECT count(*) FROM users") }
	eventually(t, "users are created", func() bool { return users() > 100 })
	outage()
	s.db = s.connect(t)
	v.awaitReady(t)
	before := users()
	eventually(t, "users are created again", func() bool { return users() > before+100 })
	cancel()
	callers.Wait()

	created, retries := 0, 0
	c := s.newCaller(t)
	for _, b := range all {
		created += len(b.created)
		retries += b.retries
		for _, u := range b.created[max(0, len(b.created)-20):] {
			c.call(t, "get", dict{"user_id": u["id"]}).is(t, u)
		}
	}
	if n := users(); n != created {
		t.Errorf("%d creates made %d users", created, n)
	}
	if n := s.count(t, "SELECT count(*) FROM services"); n != 2*created {
		t.Errorf("%d creates made %d services", created, n)
	}
	t.Logf("%d users, %d retries", created, retries)
}

func TestLostPostgresEndsTheInstanceOrIsWaitedFor(t *testing.T) {
	t.Parallel()
	database := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	impatient, insistent := newSite(t), newSite(t)
	impatient.moveInto(t, database)
	insistent.moveInto(t, database)
	leaver, stayer := impatient.serve(t), insistent.serve(t, settings{"amqp.insist": "true"})
	loadInstance(t, impatient, leaver)
	survives(t, insistent, stayer, func() {
		database.Kill()
		leaves(t, leaver)
		eventually(t, "the one that stays is not ready", func() bool { return stayer.probe("/readyz") == http.StatusServiceUnavailable })
		if status := stayer.probe("/livez"); status != http.StatusOK {
			t.Errorf("/livez: %d", status)
		}
		if err := database.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	stayer.oneConnection(t)
}

// leaves fails unless the instance ends, since it does not insist.
func leaves(t *testing.T, v *service) {
	t.Helper()
	lost := time.Now()
	if status := v.await(t, 3*giveUp); status != 129 {
		t.Errorf("with insist = false it ended with %d", status)
	}
	if took := time.Since(lost); took > giveUp {
		t.Errorf("with insist = false it ended after %.1f s", took.Seconds())
	}
}

func TestLostRabbitMQEndsTheInstanceOrIsWaitedFor(t *testing.T) {
	t.Parallel()
	broker := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{})
	impatient, insistent := newSite(t), newSite(t)
	impatient.moveTo(t, broker)
	insistent.moveTo(t, broker)
	leaver, stayer := impatient.serve(t), insistent.serve(t, settings{"amqp.insist": "true"})
	loadInstance(t, impatient, leaver)
	declared := time.Now()
	survives(t, insistent, stayer, func() {
		time.Sleep(time.Until(declared.Add(brokerSettles)))
		broker.Kill()
		leaves(t, leaver)
		eventually(t, "the one that stays is not ready", func() bool { return stayer.probe("/readyz") == http.StatusServiceUnavailable })
		if err := broker.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTLSAndEachLogin(t *testing.T) {
	t.Parallel()
	authority := testservers.NewAuthority(t)
	brokerCert, brokerKey := authority.Issue(t, "broker")
	broker := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{
		TLS: &localserver.TLS{CAFile: authority.CAFile, CertFile: brokerCert, KeyFile: brokerKey},
	})
	s := newSite(t)
	s.moveTo(t, broker)
	for user, password := range map[string]string{"ident": "s3cret-password", "by-certificate": ""} {
		if err := broker.Management.CreateUser(t.Context(), user, password); err != nil {
			t.Fatal(err)
		}
		if err := broker.Management.Permit(t.Context(), user, s.settings["amqp.vhost"], ".*", ".*", ".*"); err != nil {
			t.Fatal(err)
		}
	}
	c := s.newCaller(t)
	cert, key := authority.Issue(t, "by-certificate")
	strangerCert, strangerKey := testservers.NewAuthority(t).Issue(t, "by-certificate")
	secure := settings{"amqp.ssl": "true", "amqp.port": strconv.Itoa(broker.TLSPort), "amqp.ssl_ca": authority.CAFile}
	password := settings{"amqp.login": "ident", "amqp.password": "s3cret-password"}
	passwordFile := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(passwordFile, []byte("s3cret-password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	external := settings{"amqp.login_method": "EXTERNAL", "amqp.ssl_cert": cert, "amqp.ssl_key": key}

	for name, given := range map[string]settings{
		"AMQPLAIN, the default": password,
		"PLAIN":                 password.with(settings{"amqp.login_method": "PLAIN"}),
		"AMQPLAIN over TLS":     secure.with(password, settings{"amqp.login_method": "AMQPLAIN"}),
		"PLAIN over TLS":        secure.with(password, settings{"amqp.login_method": "PLAIN"}),
		"EXTERNAL":              secure.with(external),
		"by the host's name":    secure.with(password, settings{"amqp.host": "localhost"}),
		"under another name":    secure.with(password, settings{"amqp.ssl_server_name": "localhost"}),
		"password in a file":    secure.with(settings{"amqp.login": "ident", "amqp.password_file": passwordFile}),
	} {
		t.Run(name, func(t *testing.T) {
			from := *s
			if _, ok := given["amqp.password_file"]; ok {
				from.settings = from.settings.with()
				delete(from.settings, "amqp.password")
			}
			v := from.serve(t, given)
			u := c.create(t, newUser())
			c.call(t, "get", dict{"user_id": u["id"]}).is(t, u)
			v.stop(t)
		})
	}
	for name, given := range map[string]settings{
		"an authority that nobody knows": secure.with(password, settings{"amqp.ssl_ca": ""}),
		"another authority":              secure.with(password, settings{"amqp.ssl_ca": strangerCert}),
		"another name":                   secure.with(password, settings{"amqp.ssl_server_name": "elsewhere.example"}),
		"a wrong password":               secure.with(password, settings{"amqp.password": "s3cret-wrong"}),
		"a stranger's certificate":       secure.with(external, settings{"amqp.ssl_cert": strangerCert, "amqp.ssl_key": strangerKey}),
		"TLS where there is none":        secure.with(password, settings{"amqp.port": strconv.Itoa(broker.Port)}),
		"no TLS where there is some":     password.with(settings{"amqp.port": strconv.Itoa(broker.TLSPort)}),
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			t.Parallel()
			p := launch(t, s.settings.with(given).environ(), "serve")
			want := 129
			if name == "a wrong password" || name == "a stranger's certificate" { // the login is refused, not TLS
				want = 78
			}
			if status := p.await(t, giveUp); status != want {
				t.Errorf("ended with %d, not %d", status, want)
			}
			if p.stderr.count("serving") > 0 {
				t.Error("it has served")
			}
		})
	}
}
