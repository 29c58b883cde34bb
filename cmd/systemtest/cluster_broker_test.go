package systemtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

func partitionQueue(p int) string { return fmt.Sprintf("%s/%04d", requestQueue, p) }

// Somebody binds the partitions' queues in another order, while callers ask.
func TestQueuesThatAreBoundInAnotherOrderAreBoundAnewAndNothingIsLost(t *testing.T) {
	t.Parallel()
	const partitions = 8
	s := newSite(t)
	s.settings["cluster.partitions"] = fmt.Sprint(partitions)
	s.settings["cluster.queue_type"] = "classic" // of which the test can take messages
	instances := []*service{s.serveAs(t, "a"), s.serveAs(t, "b")}
	s.awaitCalm(t, []string{"a", "b"}, func() bool { return true })
	l := newLoad(t, s.amqpURL, 1)
	eventually(t, "requests are answered", l.asksOn())

	c := s.newCaller(t)
	conn, channel := c.conn, c.channel
	for p := range partitions {
		if err := channel.QueueUnbind(partitionQueue(p), "1", "glotpod.ident", nil); err != nil {
			t.Fatal(err)
		}
	}
	for p := range partitions {
		if err := channel.QueueBind(partitionQueue(partitions-1-p), "1", "glotpod.ident", false, nil); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "requests are answered though the queues are permuted", l.asksOn())
	// They are bound anew at once, and once more if that was too early.
	eventually(t, "each request comes to its partition", func() bool {
		before := misplaced(t, conn)
		eventually(t, "requests are answered", l.asksOn())
		return before > 0 && misplaced(t, conn) == before
	})
	l.check()
	for _, v := range instances {
		v.oneConnection(t)
		v.stop(t)
	}

	// Now nobody takes what is sent.
	for id := range int64(200) {
		queue := partitionQueue(partition.Of(id, partitions))
		if err := channel.Publish("glotpod.ident", fmt.Sprint(id), false, false, amqp.Publishing{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprintf("the request for user %d is in %s", id, queue), func() bool {
			_, ok, err := channel.Get(queue, true)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		})
	}
}

// misplaced returns how many requests have come to other partitions than theirs,
// as the instances say.
func misplaced(t *testing.T, conn *amqp.Connection) (n int64) {
	t.Helper()
	reports, err := membership.AskStatus(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reports {
		n += r.Counters.Misrouted
	}
	return n
}

// Callers then have the way over amq.topic, as they always had.
func TestBrokerWithoutThePluginIsServedAndTheLogSaysHowToEnableIt(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "rabbitmq")
	broker := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{Dir: dir})
	if err := broker.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "enabled_plugins"), []byte("[rabbitmq_management].\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	restart(t, broker)
	s := newSite(t)
	s.moveTo(t, broker)
	instances := []*service{s.serveAs(t, "a"), s.serveAs(t, "b")}
	s.awaitCalm(t, []string{"a", "b"}, func() bool { return true })
	l := newLoad(t, s.amqpURL, 1)
	eventually(t, "requests are answered", l.asksOn())
	l.check()
	for _, v := range instances {
		if !strings.Contains(v.stderr.String(), "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange") {
			t.Errorf("the log does not say what to do: %s", v.stderr.String())
		}
		v.oneConnection(t)
	}
}

func TestTheSharedQueueIsBoundAgainWhenSomebodyHasUnboundIt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.serve(t)
	c := s.newCaller(t)
	if err := c.channel.QueueUnbind(requestQueue, "rpc.user.#", "amq.topic", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a request is answered", func() bool {
		m := c.request("list", dict{})
		c.send(t, m)
		select {
		case <-c.answersTo(m.CorrelationId):
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	v.oneConnection(t)
}

// What the README asks for is enough; where it was missing from the start, it is no use
// trying again.
func TestBrokersUserNeedsTheRightsThatTheREADMESays(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	broker := testservers.RabbitMQ(t)
	user := settings{"amqp.vhost": broker.VHost, "amqp.login": broker.VHost, "amqp.password": "s3cret-password", "amqp.insist": "true"}
	create := func() {
		t.Helper()
		if err := broker.Management.CreateUser(t.Context(), broker.VHost, "s3cret-password"); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(ctx context.Context) {
		t.Helper()
		if err := broker.Management.DeleteUser(ctx, broker.VHost); err != nil {
			t.Error(err)
		}
	}
	create()
	t.Cleanup(func() { remove(context.Background()) })
	permit := func(configure, write, read string) {
		t.Helper()
		if err := broker.Management.Permit(t.Context(), broker.VHost, broker.VHost, configure, write, read); err != nil {
			t.Fatal(err)
		}
	}
	const enough = `^(glotpod|amq\.).*`
	for _, rights := range [][3]string{{"", "", ""}, {"^other", enough, enough}, {enough, "^other", enough}, {enough, enough, "^other"}} {
		permit(rights[0], rights[1], rights[2])
		start := time.Now()
		status, _, stderr := runToEnd(t, s.settings.with(user).environ(), "serve")
		if status != 78 || !strings.Contains(stderr, "may not configure, write and read") {
			t.Errorf("with the rights %q it ended with %d after %.1f s: %s", rights, status, time.Since(start).Seconds(), stderr)
		}
	}
	permit(enough, enough, enough)
	s.settings = s.settings.with(user)
	s.amqpURL = broker.URL()
	v := s.serve(t)
	startTraffic(t, s, 20).check(t, s)

	remove(t.Context()) // closes its connections, too
	create()
	permit("", "", "")
	eventually(t, "the rights are missed", func() bool { return strings.Contains(v.stderr.String(), "may not configure") })
	permit(enough, enough, enough)
	v.awaitReady(t)
	s.newCaller(t).create(t, newUser())
}
