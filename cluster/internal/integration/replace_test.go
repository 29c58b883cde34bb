package integration_test

import (
	"context"
	"net/http"
	"net/url"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/deploy/testservers"
)

// TestReplaceSharedQueue replaces a classic shared queue by a quorum queue, as an operator does
// it, while requests come.
func TestReplaceSharedQueue(t *testing.T) {
	t.Parallel()
	s := newQuorumSetup(t)
	if _, err := s.channel.QueueDeclare(sharedQueue, true, false, false, false, amqp.Table{"x-queue-type": "classic"}); err != nil {
		t.Fatal(err)
	}
	instance, _ := s.runInstance()
	s.commit(1)
	client := s.client()

	ctx, stop := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	var replies atomic.Int64
	for range 8 {
		calls.Go(func() {
			for ctx.Err() == nil {
				call, cancel := context.WithTimeout(t.Context(), time.Minute)
				reply, err := client.Call(call, "patch", "", patchBody(1))
				if code := actor.ErrorCode(reply); err != nil || code != "" {
					t.Errorf("a request has the reply %q, %v", code, err)
				}
				cancel()
				replies.Add(1)
			}
		})
	}
	script := exec.CommandContext(t.Context(), "../../../deploy/rabbitmq/replace-shared-queue.sh", s.vhost.Management.URL, s.vhost.VHost)
	script.Env = append(script.Environ(), "LOGIN="+s.vhost.User+":"+s.vhost.Password)
	output, err := script.CombinedOutput()
	stop()
	calls.Wait()
	t.Logf("%d replies; %s", replies.Load(), output)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range s.vhost.Queues(t) {
		switch {
		case q.Name == sharedQueue && q.Type != "quorum":
			t.Errorf("the shared queue is a %s queue", q.Type)
		case q.Name == "glotpod.ident.waiting":
			t.Error("the waiting queue is left")
		}
	}
	if n := value(t, instance, "sessions_total"); n != 1 {
		t.Errorf("the instance took %v sessions", n)
	}
}

// A repeat after a failure, when no instance runs, finds no queue. The password is one that curl
// does not read as it is.
func TestReplaceMissingQueue(t *testing.T) {
	t.Parallel()
	b := newQuorumSetup(t).vhost
	const password = `a"b\c`
	name := b.VHost + "-admin"
	err := b.Management.Call(t.Context(), http.MethodPut, "/api/users/"+name, map[string]string{"password": password, "tags": "administrator"}, nil)
	if err == nil {
		err = b.Management.Permit(t.Context(), name, b.VHost, ".*", ".*", ".*")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Management.DeleteUser(context.Background(), name) })
	script := exec.CommandContext(t.Context(), "../../../deploy/rabbitmq/replace-shared-queue.sh", b.Management.URL, b.VHost)
	script.Env = append(script.Environ(), "LOGIN="+name+":"+password)
	if output, err := script.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for _, q := range b.Queues(t) {
		if q.Name == sharedQueue && q.Type == "quorum" {
			return
		}
	}
	t.Error("there is no shared queue of the type quorum")
}

// newQuorumSetup returns a setup in a virtual host with quorum queues as the default.
func newQuorumSetup(t *testing.T) *setup {
	t.Helper()
	b := testservers.RabbitMQ(t)
	// RabbitMQ 3.10 takes the default only with a new virtual host.
	err := b.Management.DeleteVHost(t.Context(), b.VHost)
	if err == nil {
		err = b.Management.Call(t.Context(), http.MethodPut, "/api/vhosts/"+url.PathEscape(b.VHost),
			map[string]string{"default_queue_type": "quorum", "defaultqueuetype": "quorum"}, nil)
	}
	if err == nil {
		err = b.Management.Permit(t.Context(), b.User, b.VHost, ".*", ".*", ".*")
	}
	if err != nil {
		t.Fatal(err)
	}
	s := newSetupAt(t, b.URL(), broker.Options{Addresses: []string{b.Address()}, VHost: b.VHost, Login: b.User, Password: b.Password})
	s.vhost = b
	return s
}
