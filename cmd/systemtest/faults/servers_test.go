package faults

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

	"github.com/glotpod/ident/cmd/systemtest/harness"
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
	var c *harness.Caller
	defer func() {
		if c != nil {
			c.Conn.Close()
		}
	}()
	for b.stop.Err() == nil {
		u := harness.NewUser("github", "facebook")
		id := uuid.NewString()
		begin := time.Now()
		for answered := false; !answered; {
			if time.Since(begin) > 2*harness.Timeout {
				b.t.Errorf("a request was not answered in %v", 2*harness.Timeout)
				return
			}
			if c == nil || c.Conn.IsClosed() {
				var err error
				if c, err = harness.DialCaller(b.url); err != nil {
					c = nil
					time.Sleep(50 * time.Millisecond)
					continue
				}
			}
			var a harness.Reply
			if a, answered = tryCreate(c, id, u); !answered {
				b.retries++
				continue
			}
			result, ok := a.Value.(dict)["result"].(dict)
			switch {
			case ok:
				b.created = append(b.created, harness.Changed(u, dict{"id": result["user_id"]}))
			case a.ErrorCode() == "invocation_failed":
				answered = false
				b.retries++
			default:
				b.t.Errorf("a create was answered with %v", a.Value)
			}
		}
	}
}

// try asks once. It reports false where no answer came.
func tryCreate(c *harness.Caller, messageID string, u dict) (harness.Reply, bool) {
	m := c.NewRequest("create", u)
	m.MessageId = messageID
	closed := c.Conn.NotifyClose(make(chan *amqp.Error, 1))
	if c.Publish(m) != nil {
		return harness.Reply{}, false
	}
	select {
	case a := <-c.Replies(m.CorrelationId):
		return a, a.Err == nil
	case <-closed:
	case <-time.After(5 * time.Second):
	}
	return harness.Reply{}, false
}

// survives has stubborn callers ask while something happens to a server, and
// fails unless each request was carried out, once.
func survives(t *testing.T, s *harness.Site, v *harness.Instance, outage func()) {
	t.Helper()
	stop, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer cancel()
	var all []*stubborn
	for range 8 {
		b := &stubborn{url: s.AMQPURL, t: t, stop: stop}
		all = append(all, b)
		callers.Go(b.run)
	}
	users := func() int { return s.Count(t, "SELECT count(*) FROM users") }
	harness.Eventually(t, "users are created", func() bool { return users() > 100 })
	outage()
	s.DB = s.Connect(t)
	v.AwaitReady(t)
	before := users()
	harness.Eventually(t, "users are created again", func() bool { return users() > before+100 })
	cancel()
	callers.Wait()

	created, retries := 0, 0
	c := s.NewCaller(t)
	for _, b := range all {
		created += len(b.created)
		retries += b.retries
		for _, u := range b.created[max(0, len(b.created)-20):] {
			c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
		}
	}
	if n := users(); n != created {
		t.Errorf("%d creates made %d users", created, n)
	}
	if n := s.Count(t, "SELECT count(*) FROM services"); n != 2*created {
		t.Errorf("%d creates made %d services", created, n)
	}
	t.Logf("%d users, %d retries", created, retries)
}

func TestLostPostgresEndsTheInstanceOrIsWaitedFor(t *testing.T) {
	t.Parallel()
	database := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	impatient, insistent := harness.NewSite(t), harness.NewSite(t)
	impatient.UsePostgres(t, database)
	insistent.UsePostgres(t, database)
	leaver, stayer := impatient.Serve(t), insistent.Serve(t, harness.Settings{"amqp.insist": "true"})
	loadInstance(t, impatient, leaver)
	survives(t, insistent, stayer, func() {
		database.Kill()
		leaves(t, leaver)
		harness.Eventually(t, "the one that stays is not ready", func() bool { return stayer.Probe("/readyz") == http.StatusServiceUnavailable })
		if status := stayer.Probe("/livez"); status != http.StatusOK {
			t.Errorf("/livez: %d", status)
		}
		if err := database.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	stayer.CheckOneConnection(t)
}

// leaves fails unless the instance ends, since it does not insist.
func leaves(t *testing.T, v *harness.Instance) {
	t.Helper()
	lost := time.Now()
	if status := v.AwaitExit(t, 3*harness.GiveUpTimeout); status != 129 {
		t.Errorf("with insist = false it ended with %d", status)
	}
	if took := time.Since(lost); took > harness.GiveUpTimeout {
		t.Errorf("with insist = false it ended after %.1f s", took.Seconds())
	}
}

func TestLostRabbitMQEndsTheInstanceOrIsWaitedFor(t *testing.T) {
	t.Parallel()
	broker := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{})
	impatient, insistent := harness.NewSite(t), harness.NewSite(t)
	impatient.UseBroker(t, broker)
	insistent.UseBroker(t, broker)
	leaver, stayer := impatient.Serve(t), insistent.Serve(t, harness.Settings{"amqp.insist": "true"})
	loadInstance(t, impatient, leaver)
	declared := time.Now()
	survives(t, insistent, stayer, func() {
		time.Sleep(time.Until(declared.Add(brokerSettles)))
		broker.Kill()
		leaves(t, leaver)
		harness.Eventually(t, "the one that stays is not ready", func() bool { return stayer.Probe("/readyz") == http.StatusServiceUnavailable })
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
	s := harness.NewSite(t)
	s.UseBroker(t, broker)
	for user, password := range map[string]string{"ident": "s3cret-password", "by-certificate": ""} {
		if err := broker.Management.CreateUser(t.Context(), user, password); err != nil {
			t.Fatal(err)
		}
		if err := broker.Management.Permit(t.Context(), user, s.Settings["amqp.vhost"], ".*", ".*", ".*"); err != nil {
			t.Fatal(err)
		}
	}
	c := s.NewCaller(t)
	cert, key := authority.Issue(t, "by-certificate")
	strangerCert, strangerKey := testservers.NewAuthority(t).Issue(t, "by-certificate")
	secure := harness.Settings{"amqp.ssl": "true", "amqp.port": strconv.Itoa(broker.TLSPort), "amqp.ssl_ca": authority.CAFile}
	password := harness.Settings{"amqp.login": "ident", "amqp.password": "s3cret-password"}
	passwordFile := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(passwordFile, []byte("s3cret-password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	external := harness.Settings{"amqp.login_method": "EXTERNAL", "amqp.ssl_cert": cert, "amqp.ssl_key": key}

	for name, given := range map[string]harness.Settings{
		"AMQPLAIN, the default": password,
		"PLAIN":                 password.With(harness.Settings{"amqp.login_method": "PLAIN"}),
		"AMQPLAIN over TLS":     secure.With(password, harness.Settings{"amqp.login_method": "AMQPLAIN"}),
		"PLAIN over TLS":        secure.With(password, harness.Settings{"amqp.login_method": "PLAIN"}),
		"EXTERNAL":              secure.With(external),
		"by the host's name":    secure.With(password, harness.Settings{"amqp.host": "localhost"}),
		"under another name":    secure.With(password, harness.Settings{"amqp.ssl_server_name": "localhost"}),
		"password in a file":    secure.With(harness.Settings{"amqp.login": "ident", "amqp.password_file": passwordFile}),
	} {
		t.Run(name, func(t *testing.T) {
			from := *s
			if _, ok := given["amqp.password_file"]; ok {
				from.Settings = from.Settings.With()
				delete(from.Settings, "amqp.password")
			}
			v := from.Serve(t, given)
			u := c.Create(t, harness.NewUser())
			c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
			v.Stop(t)
		})
	}
	for name, given := range map[string]harness.Settings{
		"an authority that nobody knows": secure.With(password, harness.Settings{"amqp.ssl_ca": ""}),
		"another authority":              secure.With(password, harness.Settings{"amqp.ssl_ca": strangerCert}),
		"another name":                   secure.With(password, harness.Settings{"amqp.ssl_server_name": "elsewhere.example"}),
		"a wrong password":               secure.With(password, harness.Settings{"amqp.password": "s3cret-wrong"}),
		"a stranger's certificate":       secure.With(external, harness.Settings{"amqp.ssl_cert": strangerCert, "amqp.ssl_key": strangerKey}),
		"TLS where there is none":        secure.With(password, harness.Settings{"amqp.port": strconv.Itoa(broker.Port)}),
		"no TLS where there is some":     password.With(harness.Settings{"amqp.port": strconv.Itoa(broker.TLSPort)}),
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			t.Parallel()
			p := harness.Launch(t, s.Settings.With(given).Environ(), "serve")
			want := 129
			if name == "a wrong password" || name == "a stranger's certificate" { // the login is refused, not TLS
				want = 78
			}
			if status := p.AwaitExit(t, harness.GiveUpTimeout); status != want {
				t.Errorf("ended with %d, not %d", status, want)
			}
			if p.Stderr.Count("serving") > 0 {
				t.Error("it has served")
			}
		})
	}
}
