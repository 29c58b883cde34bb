package faults

import (
	"context"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/testservers"
)

// A login that RabbitMQ refuses at the start comes from wrong settings: the instance
// ends with 78, also if amqp.insist is true. Later the password may have changed on
// one of the two sides before the other, so an instance that has served tries again.
func TestRefusedLogin(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	broker := testservers.RabbitMQ(t)
	const user, password = "login-test", "s3cret-password"
	create := func() {
		t.Helper()
		if err := broker.Management.CreateUser(t.Context(), user, password); err != nil {
			t.Fatal(err)
		}
		if err := broker.Management.Permit(t.Context(), user, broker.VHost, ".*", ".*", ".*"); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(ctx context.Context) {
		t.Helper()
		if err := broker.Management.DeleteUser(ctx, user); err != nil {
			t.Error(err)
		}
	}
	create()
	t.Cleanup(func() { remove(context.Background()) })
	s.Settings = s.Settings.With(harness.Settings{"amqp.vhost": broker.VHost, "amqp.login": user, "amqp.password": password})
	s.AMQPURL = broker.URL()

	for name, wrong := range map[string]harness.Settings{
		"wrong password": {"amqp.password": "s3cret-wrong"},
		"unknown user":   {"amqp.login": "nobody-of-this-name"},
		"insist":         {"amqp.password": "s3cret-wrong", "amqp.insist": "true"},
	} {
		t.Run("start/"+name, func(t *testing.T) {
			status, _, stderr := harness.Run(t, s.Settings.With(wrong).Environ(), "serve")
			if status != 78 || !strings.Contains(stderr, "refused") || strings.Contains(stderr, "out of reach") || strings.Contains(stderr, "s3cret-wrong") {
				t.Errorf("ended with %d: %s", status, stderr)
			}
		})
	}
	for _, command := range [][]string{{"status"}, {"drain", "web-1"}, {"call", "get", "user_id=1"}} {
		t.Run("command/"+command[0], func(t *testing.T) {
			status, _, stderr := harness.Run(t, s.Settings.With(harness.Settings{"amqp.password": "s3cret-wrong"}).Environ(), command...)
			if status != 78 || !strings.Contains(stderr, "refused") || strings.Contains(stderr, "out of reach") {
				t.Errorf("ended with %d: %s", status, stderr)
			}
		})
	}
	t.Run("later", func(t *testing.T) {
		v := s.Serve(t, harness.Settings{"amqp.insist": "true"})
		remove(t.Context()) // RabbitMQ closes the user's connections
		harness.Eventually(t, "the login is refused", func() bool { return strings.Contains(v.Stderr.String(), "RabbitMQ refused the connection") })
		create()
		v.AwaitReady(t)
		s.NewCaller(t).Create(t, harness.NewUser())
	})
}
