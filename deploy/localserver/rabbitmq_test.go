package localserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

func TestRabbitMQ(t *testing.T) {
	t.Parallel()
	t.Run("data survives and no process is left", testRabbitMQLife)
	t.Run("logins", testRabbitMQLogins)
	t.Run("cancelled start", testRabbitMQCancelledStart)
	t.Run("failed start", testRabbitMQFailedStart)
}

func testRabbitMQLife(t *testing.T) {
	t.Parallel()
	dir := ownDir(t)
	start := func() *localserver.RabbitMQ {
		t.Helper()
		return testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{Dir: dir})
	}
	r := start()
	if err := r.Management.CreateVHost(t.Context(), "a/b c"); err != nil {
		t.Fatal(err)
	}
	publish(t, open(t, r), "one")
	pids := r.Processes()
	for range 2 {
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if left := running(pids); len(left) > 0 {
		t.Errorf("Stop left the processes %v of %v", left, pids)
	}

	r = start()
	conn := open(t, r)
	publish(t, conn, "two")
	pids = r.Processes()
	r.Kill()
	if left := running(pids); len(left) > 0 {
		t.Errorf("Kill left the processes %v of %v", left, pids)
	}
	if err := <-conn.NotifyClose(make(chan *amqp.Error, 1)); err == nil && !conn.IsClosed() {
		t.Error("a client's connection outlived Kill")
	}
	port := r.Port
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.Port != port {
		t.Errorf("Restart moved the broker from port %d to %d", port, r.Port)
	}
	ch := channel(t, open(t, r))
	for _, want := range []string{"one", "two"} {
		d, ok, err := ch.Get(queue, true)
		if err != nil || !ok || string(d.Body) != want {
			t.Errorf("got the message %q, %v, %v, want %q", d.Body, ok, err, want)
		}
	}
}

func testRabbitMQLogins(t *testing.T) {
	t.Parallel()
	authority := testservers.NewAuthority(t)
	brokerCert, brokerKey := authority.Issue(t, "broker")
	r := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{
		TLS: &localserver.TLS{CAFile: authority.CAFile, CertFile: brokerCert, KeyFile: brokerKey},
	})
	for user, password := range map[string]string{"by password": "secret", "by certificate": ""} {
		if err := r.Management.CreateUser(t.Context(), user, password); err != nil {
			t.Fatal(err)
		}
		if err := r.Management.Permit(t.Context(), user, "/", ".*", ".*", ".*"); err != nil {
			t.Fatal(err)
		}
	}

	pem, err := os.ReadFile(authority.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(pem)
	own, err := tls.LoadX509KeyPair(authority.Issue(t, "by certificate"))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := tls.LoadX509KeyPair(testservers.NewAuthority(t).Issue(t, "by certificate"))
	if err != nil {
		t.Fatal(err)
	}
	bySecret := &amqp.PlainAuth{Username: "by password", Password: "secret"}
	for _, c := range []struct {
		name string
		port int
		tls  *tls.Config
		auth amqp.Authentication
		ok   bool
	}{
		{"PLAIN", r.Port, nil, bySecret, true},
		{"AMQPLAIN", r.Port, nil, &amqp.AMQPlainAuth{Username: "by password", Password: "secret"}, true},
		{"wrong password", r.Port, nil, &amqp.PlainAuth{Username: "by password", Password: "no"}, false},
		{"empty password", r.Port, nil, &amqp.PlainAuth{Username: "by certificate", Password: ""}, false},
		{"PLAIN over TLS", r.TLSPort, &tls.Config{RootCAs: trusted}, bySecret, true},
		{"EXTERNAL", r.TLSPort, &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{own}}, &amqp.ExternalAuth{}, true},
		{"EXTERNAL without a certificate", r.TLSPort, &tls.Config{RootCAs: trusted}, &amqp.ExternalAuth{}, false},
		{"a stranger's certificate", r.TLSPort, &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{stranger}}, &amqp.ExternalAuth{}, false},
	} {
		scheme := "amqp"
		if c.tls != nil {
			scheme = "amqps"
		}
		conn, err := amqp.DialConfig(fmt.Sprintf("%s://%s:%d/", scheme, r.Host, c.port),
			amqp.Config{SASL: []amqp.Authentication{c.auth}, TLSClientConfig: c.tls})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			conn.Close()
		}
	}
}

func testRabbitMQCancelledStart(t *testing.T) {
	t.Parallel()
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer time.AfterFunc(time.Second, func() { cancel(cause) }).Stop()
	// ownDir removes the folder, which fails if a process still writes there.
	if _, err := localserver.StartRabbitMQ(ctx, localserver.RabbitMQOptions{Dir: ownDir(t)}); !errors.Is(err, cause) {
		t.Errorf("a start that is cancelled: %v", err)
	}
}

func testRabbitMQFailedStart(t *testing.T) {
	t.Parallel()
	dir := ownDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "ident@localhost"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := localserver.StartRabbitMQ(t.Context(), localserver.RabbitMQOptions{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "the end of "+filepath.Join(dir, "rabbitmq.log")) {
		t.Errorf("the data folder is a file: %v", err)
	}
}

const queue = "kept"

func open(t *testing.T, r *localserver.RabbitMQ) *amqp.Connection {
	t.Helper()
	conn, err := amqp.Dial(r.URL("a/b c"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func channel(t *testing.T, conn *amqp.Connection) *amqp.Channel {
	t.Helper()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// publish sends a message to the queue and waits for the broker's confirm.
func publish(t *testing.T, conn *amqp.Connection, body string) {
	t.Helper()
	ch := channel(t, conn)
	if _, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	confirmation, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), "", queue, true, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := confirmation.WaitContext(t.Context()); err != nil || !ok {
		t.Fatalf("the broker did not confirm the message: %v, %v", ok, err)
	}
}
