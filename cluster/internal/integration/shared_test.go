package integration_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
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
	t.Parallel()
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

// A split is a setup on two nodes of a broker's cluster. The instances are connected to the
// first one; some of the queues are on the second one, and so away while it is down.
type split struct {
	*setup
	client *caller
	away   []int // partitions
}

const splitPartitions = 4

// newSplit returns a setup in a virtual host that exists.
func newSplit(t *testing.T, first, second *localserver.RabbitMQ, vhost string, shared bool, away ...int) *split {
	t.Helper()
	conn, err := amqp.Dial(second.URL(vhost))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	s := &split{away: away, setup: newSetupAt(t, first.URL(vhost), broker.Options{
		Addresses: []string{first.Address()}, VHost: vhost, Login: first.User, Password: first.Password,
	})}
	s.options.Partitions, s.options.QueueType = splitPartitions, "classic" // which has one node
	var queues []string
	if shared {
		queues = append(queues, sharedQueue)
	}
	for _, p := range away {
		queues = append(queues, s.queueOf(p))
	}
	for _, queue := range queues {
		if _, err := channel.QueueDeclare(queue, true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// commitAll creates a user in each partition.
func (s *split) commitAll() {
	s.t.Helper()
	for p := range splitPartitions {
		s.commit(s.userIn(p))
	}
	s.client = s.setup.client()
}

// serve checks that each partition with a queue on the first node serves direct requests.
func (s *split) serve() {
	s.t.Helper()
	for p := range splitPartitions {
		if !slices.Contains(s.away, p) {
			s.getDirect(s.client, s.userIn(p))
			s.patchDirect(s.client, s.userIn(p))
		}
	}
}

// patchShared changes a user of a partition by way of the shared queue. It returns the
// reply.
func (s *split) patchShared(p int) []byte {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	answer, err := s.client.Call(ctx, "patch", rand.Text(), patchBody(s.userIn(p)))
	if err != nil {
		s.t.Error(err)
	}
	return answer
}

// testNodes stops the node that has the shared queue and a partition's queue in one virtual
// host, another partition's queue in another one, and a shared queue that is kept in a third.
func testNodes(t *testing.T) {
	first := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{})
	for _, vhost := range []string{"x", "y", "z"} {
		if err := first.Management.CreateVHost(t.Context(), vhost); err != nil { // faster than with two nodes
			t.Fatal(err)
		}
	}
	second := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{Join: first})
	keepSharedQueue(t, first, "z")
	x, y, z := newSplit(t, first, second, "x", true, 3), newSplit(t, first, second, "y", false, 1), newSplit(t, first, second, "z", true)
	one, _ := x.runInstance()
	other, _ := y.runInstance()
	kept, _ := z.runInstance()
	for _, s := range []*split{x, y, z} {
		s.commitAll()
		s.serve()
	}

	if err := second.Stop(); err != nil {
		t.Fatal(err)
	}
	for p := range splitPartitions {
		if code := actor.ErrorCode(z.patchShared(p)); code != "" {
			t.Errorf("a write by way of a shared queue that is kept is replied to with %q", code)
		}
	}
	x.serve()
	x.until("the shared queue is missed", func() bool {
		err := one.Ready()
		return err != nil && strings.Contains(err.Error(), "the shared queue is not consumed") && value(t, one, "shared_queue_consumed") == 0
	})
	x.serve()
	// A session that begins now is as good as one that has begun before.
	x.options.Name, x.options.Store = "two", openStore(t, x.database)
	two, _ := x.launch()
	x.until("the newcomer has a partition", func() bool {
		return x.one("SELECT count(*) FROM ident_partitions WHERE holder = 'two' AND NOT released") != int64(0)
	})
	x.serve()

	// Writes to a partition that is away do not fill up the router.
	var writes sync.WaitGroup
	for range 2 * y.options.Prefetch {
		writes.Go(func() {
			if code := actor.ErrorCode(y.patchShared(1)); code != actor.InvocationFailed {
				t.Errorf("a write to a partition that is away is replied to with %q", code)
			}
		})
	}
	for range 10 {
		if code := actor.ErrorCode(y.patchShared(2)); code != "" {
			t.Errorf("a write to another partition is replied to with %q", code)
		}
	}
	writes.Wait()
	y.serve()

	if err := second.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.until("all instances are ready", func() bool {
		return one.Ready() == nil && two.Ready() == nil && other.Ready() == nil && kept.Ready() == nil
	})
	for _, s := range []*split{x, y, z} {
		s.away = nil
		s.serve()
		if code := actor.ErrorCode(s.patchShared(1)); code != "" {
			t.Errorf("a write is replied to with %q", code)
		}
	}
	for name, i := range map[string]*cluster.Instance{"one": one, "two": two, "other": other, "kept": kept} {
		if n := value(t, i, "sessions_total"); n != 1 {
			t.Errorf("%s took %v sessions", name, n)
		}
	}
}

// keepSharedQueue has the shared queue of a virtual host survive the loss of a node, as an operator
// does it. RabbitMQ 4.x mirrors no queues, and needs a third node: of two, neither is a majority.
func keepSharedQueue(t *testing.T, node *localserver.RabbitMQ, vhost string) {
	t.Helper()
	major, _, err := node.Management.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	method, path, body := http.MethodPut, "/api/vhosts/"+vhost, json.RawMessage(`{"default_queue_type": "quorum"}`)
	if major >= 4 {
		testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{Join: node})
	} else {
		method, path = http.MethodPost, "/api/definitions/"+vhost
		if body, err = os.ReadFile("../../../deploy/rabbitmq/policies-3.x.json"); err != nil {
			t.Fatal(err)
		}
	}
	if err := node.Management.Call(t.Context(), method, path, body, nil); err != nil {
		t.Fatal(err)
	}
}

// patchDirect changes a user, which must exist, by the direct exchange.
func (s *setup) patchDirect(client *caller, id int64) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	s.result(client.CallDirect(ctx, id, "patch", rand.Text(), patchBody(id)))
}

func patchBody(id int64) []byte {
	return pack(map[string]any{"user_id": id, "ops": []any{map[string]any{"op": "replace", "path": "/name", "value": rand.Text()}}})
}
