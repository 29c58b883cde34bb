package integration_test

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/client"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

const sharedQueue = "glotpod.rpc/ident"

// value returns the value of a metric of an instance that has no labels.
func value(t *testing.T, i *cluster.Instance, name string) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(i)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if m := f.GetMetric(); f.GetName() == "glotpod_ident_"+name && len(m) == 1 {
			return m[0].GetCounter().GetValue() + m[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestSharedQueue takes the shared queue away from an instance, which goes on to serve its
// partitions in the same session.
func TestSharedQueue(t *testing.T) {
	t.Run("deleted", testDeletedSharedQueue)
	t.Run("nodes", testNodes)
}

func testDeletedSharedQueue(t *testing.T) {
	s := newSetup(t)
	instance, _ := s.runInstance()
	s.commit(1)
	client := s.client()
	s.getDirect(client, 1)
	for range 3 {
		if _, err := s.channel.QueueDelete(sharedQueue, false, false, false); err != nil {
			t.Fatal(err)
		}
		s.getDirect(client, 1)
		s.until("the queue is consumed again", func() bool { return s.consumers(sharedQueue) == 1 })
	}
	s.result(client.Call(t.Context(), "get", "", pack(map[string]any{"user_id": 1})))
	s.until("the instance is ready", func() bool { return instance.Ready() == nil })
	if n := value(t, instance, "sessions_total"); n != 1 {
		t.Errorf("it took %v sessions", n)
	}
}

// consumers returns how many consumers a queue has, -1 if there is no such queue.
func (s *setup) consumers(queue string) int {
	s.t.Helper()
	conn, err := amqp.Dial(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		s.t.Fatal(err)
	}
	q, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		return -1
	}
	return q.Consumers
}

// userIn returns the id of a user of a partition.
func (s *setup) userIn(number int) int64 {
	for id := int64(1); ; id++ {
		if partition.Of(id, s.options.Partitions) == number {
			return id
		}
	}
}

// testNodes stops the node that has the shared queue and one partition's queue. The
// instances are connected to another node of the cluster.
func testNodes(t *testing.T) {
	first := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{})
	second := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{Join: first})
	const partitions, away = 4, 3
	conn, err := amqp.Dial(second.URL("/"))
	if err != nil {
		t.Fatal(err)
	}
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	s := newSetupAt(t, first.URL("/"), broker.Options{Host: first.Host, Port: first.Port, VHost: "/", Login: first.User, Password: first.Password})
	s.options.Partitions, s.options.QueueType = partitions, "classic" // which has one node
	for _, queue := range []string{sharedQueue, s.queueOf(away)} {
		if _, err := channel.QueueDeclare(queue, true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	conn.Close()
	one, _ := s.runInstance()
	for p := range partitions {
		s.commit(s.userIn(p))
	}
	client := s.client()
	serve := func() {
		t.Helper()
		for p := range partitions {
			if p != away {
				s.getDirect(client, s.userIn(p))
				s.patchDirect(client, s.userIn(p))
			}
		}
	}
	serve()

	if err := second.Stop(); err != nil {
		t.Fatal(err)
	}
	serve()
	s.until("the shared queue is missed", func() bool {
		err := one.Ready()
		return err != nil && strings.Contains(err.Error(), "the shared queue is not consumed") && value(t, one, "shared_queue_consumed") == 0
	})
	serve()
	// A session that begins now is as good as one that has begun before.
	s.options.Name, s.options.Store = "two", openStore(t, s.database)
	two, _ := s.launch()
	s.until("the newcomer has a partition", func() bool {
		return s.one("SELECT count(*) FROM ident_partitions WHERE holder = 'two' AND NOT released") != int64(0)
	})
	serve()

	if err := second.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.until("both instances are ready", func() bool { return one.Ready() == nil && two.Ready() == nil })
	s.result(client.Call(t.Context(), "get", "", pack(map[string]any{"user_id": 1})))
	s.getDirect(client, s.userIn(away))
	for name, i := range map[string]*cluster.Instance{"one": one, "two": two} {
		if n := value(t, i, "sessions_total"); n != 1 {
			t.Errorf("%s took %v sessions", name, n)
		}
	}
}

// patchDirect changes a user, which must exist, by the direct exchange.
func (s *setup) patchDirect(client *client.Client, id int64) {
	s.t.Helper()
	s.result(client.CallDirect(s.t.Context(), id, "patch", rand.Text(), pack(map[string]any{"user_id": id, "ops": []any{
		map[string]any{"op": "replace", "path": "/name", "value": rand.Text()}}})))
}
