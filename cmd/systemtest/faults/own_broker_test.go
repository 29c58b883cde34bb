package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/cmd/systemtest/workload"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

// An ownBroker is configured, killed and restarted by tests. They share it because a
// broker takes long to start.
type ownBroker struct {
	*localserver.RabbitMQ
	folder    string
	authority *testservers.Authority
}

func TestOwnBroker(t *testing.T) {
	t.Parallel()
	b := &ownBroker{folder: filepath.Join(t.TempDir(), "rabbitmq"), authority: testservers.NewAuthority(t)}
	certificate, key := b.authority.Issue(t, "broker")
	b.RabbitMQ = testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{
		Dir: b.folder,
		TLS: &localserver.TLS{CAFile: b.authority.CAFile, CertFile: certificate, KeyFile: key},
	})
	t.Run("login", b.testLogins)
	t.Run("lost", b.testLost)
	t.Run("without_hash_plugin_and_few_channels", b.testWithoutHashPlugin)
}

// An instance connects by each login method, with and without TLS, and to no broker
// that it cannot trust.
func (b *ownBroker) testLogins(t *testing.T) {
	s := harness.NewSite(t)
	s.UseBroker(t, b.RabbitMQ)
	for user, password := range map[string]string{"ident": "s3cret-password", "by-certificate": ""} {
		if err := b.Management.CreateUser(t.Context(), user, password); err != nil {
			t.Fatal(err)
		}
		if err := b.Management.Permit(t.Context(), user, s.Settings["amqp.vhost"], ".*", ".*", ".*"); err != nil {
			t.Fatal(err)
		}
	}
	c := s.NewCaller(t)
	cert, key := b.authority.Issue(t, "by-certificate")
	foreignCert, foreignKey := testservers.NewAuthority(t).Issue(t, "by-certificate")
	tls := harness.Settings{"amqp.ssl": "true", "amqp.port": strconv.Itoa(b.TLSPort), "amqp.ssl_ca": b.authority.CAFile}
	password := harness.Settings{"amqp.login": "ident", "amqp.password": "s3cret-password"}
	passwordFile := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(passwordFile, []byte("s3cret-password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	external := harness.Settings{"amqp.login_method": "EXTERNAL", "amqp.ssl_cert": cert, "amqp.ssl_key": key}

	for name, given := range map[string]harness.Settings{
		"default_AMQPLAIN": password,
		"PLAIN":            password.With(harness.Settings{"amqp.login_method": "PLAIN"}),
		"TLS_AMQPLAIN":     tls.With(password, harness.Settings{"amqp.login_method": "AMQPLAIN"}),
		"TLS_PLAIN":        tls.With(password, harness.Settings{"amqp.login_method": "PLAIN"}),
		"TLS_EXTERNAL":     tls.With(external),
		"TLS_host_name":    tls.With(password, harness.Settings{"amqp.host": "localhost"}),
		"TLS_server_name":  tls.With(password, harness.Settings{"amqp.ssl_server_name": "localhost"}),
		"password_file":    tls.With(harness.Settings{"amqp.login": "ident", "amqp.password_file": passwordFile}),
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
			if status, _, stderr := harness.Run(t, from.Settings.With(given).Environ(), "call", "get", fmt.Sprint("user_id=", u["id"])); status != 0 {
				t.Errorf("call ended with %d: %s", status, stderr)
			}
			v.Stop(t)
		})
	}
	for name, x := range map[string]struct {
		given  harness.Settings
		status int // 78 if the broker refuses the login, 129 if there is no connection
	}{
		"unknown_authority":     {tls.With(password, harness.Settings{"amqp.ssl_ca": ""}), 129},
		"another_authority":     {tls.With(password, harness.Settings{"amqp.ssl_ca": foreignCert}), 129},
		"another_server_name":   {tls.With(password, harness.Settings{"amqp.ssl_server_name": "elsewhere.example"}), 129},
		"wrong_password":        {tls.With(password, harness.Settings{"amqp.password": "s3cret-wrong"}), 78},
		"foreign_certificate":   {tls.With(external, harness.Settings{"amqp.ssl_cert": foreignCert, "amqp.ssl_key": foreignKey}), 78},
		"TLS_to_the_plain_port": {tls.With(password, harness.Settings{"amqp.port": strconv.Itoa(b.Port)}), 129},
		"plain_to_the_TLS_port": {password.With(harness.Settings{"amqp.port": strconv.Itoa(b.TLSPort)}), 129},
	} {
		t.Run("refused/"+name, func(t *testing.T) {
			t.Parallel()
			p := harness.Launch(t, s.Settings.With(x.given).Environ(), "serve")
			if status := p.AwaitExit(t, harness.GiveUpTimeout); status != x.status {
				t.Errorf("status %d, want %d", status, x.status)
			}
			if p.Stderr.Count("serving") > 0 {
				t.Error("the instance has served")
			}
		})
	}
}

func (b *ownBroker) testLost(t *testing.T) {
	x := startLeaverAndStayer(t, func(s *harness.Site) { s.UseBroker(t, b.RabbitMQ) })
	declared := time.Now()
	checkOutage(t, x.stayerSite, x.stayer, func() {
		wait.For(t.Context(), time.Until(declared.Add(brokerSettles))) // nothing signals this
		b.Kill()
		x.checkLost(t)
		restart(t, b.RabbitMQ)
	})
}

// Without the plugin for the consistent hash exchange, callers have the way over
// amq.topic, and the log says how to enable the plugin. An instance that may have to serve
// more partitions than the broker allows channels for does not start.
func (b *ownBroker) testWithoutHashPlugin(t *testing.T) {
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.folder, "enabled_plugins")
	plugins, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	less := strings.Replace(string(plugins), "rabbitmq_consistent_hash_exchange,", "", 1)
	if less == string(plugins) {
		t.Fatalf("the plugin is not among %s", plugins)
	}
	if err := os.WriteFile(file, []byte(less), 0o600); err != nil {
		t.Fatal(err)
	}
	b.configure(t, "channel_max = 20")
	restart(t, b.RabbitMQ)
	s := harness.NewSite(t)
	s.UseBroker(t, b.RabbitMQ)
	other := harness.NewSite(t)
	other.UseBroker(t, b.RabbitMQ)
	checkSetup(t, other.Settings.With(harness.Settings{"cluster.partitions": "5"}), "channel_max", "20 are allowed, and 21 needed for 5 partitions")
	instances := []*harness.Instance{s.ServeAs(t, "a"), s.ServeAs(t, "b")}
	s.AwaitStableOwners(t, []string{"a", "b"}, func() bool { return true })
	l := workload.Start(t, s.AMQPURL, workload.FewCallers, 1)
	harness.Eventually(t, "there are replies", l.Progress())
	l.Check()
	for _, v := range instances {
		if !strings.Contains(v.Stderr.String(), "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange") {
			t.Errorf("the log does not say what to do: %s", v.Stderr.String())
		}
		v.CheckOneConnection(t)
	}
}

// configure adds a line to the broker's settings, which it reads when it starts.
func (b *ownBroker) configure(t *testing.T, line string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(b.folder, "rabbitmq.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(line + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}
