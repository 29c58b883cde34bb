package faults

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/testservers"
)

// newVHost returns a site with a virtual host with this default type of queues, "" for none.
func newVHost(t *testing.T, defaultType string) (*harness.Site, *testservers.Broker) {
	t.Helper()
	s, broker := harness.NewSite(t), testservers.RabbitMQ(t)
	if defaultType != "" { // it cannot be changed later
		if err := broker.Management.DeleteVHost(t.Context(), broker.VHost); err != nil {
			t.Fatal(err)
		}
		// The second name is that of RabbitMQ 3.10.
		err := broker.Management.Call(t.Context(), http.MethodPut, "/api/vhosts/"+url.PathEscape(broker.VHost),
			map[string]string{"default_queue_type": defaultType, "defaultqueuetype": defaultType}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	s.Settings["amqp.vhost"] = broker.VHost
	s.AMQPURL = broker.URL()
	return s, broker
}

// checkSetup checks that an instance ends with status 78 and a log that contains all texts.
func checkSetup(t *testing.T, settings harness.Settings, texts ...string) {
	t.Helper()
	status, _, stderr := harness.Run(t, settings.Environ(), "serve")
	if status != 78 {
		t.Errorf("it ended with %d: %s", status, stderr)
	}
	for _, text := range texts {
		if !strings.Contains(stderr, text) {
			t.Errorf("it does not say %q: %s", text, stderr)
		}
	}
}

// An instance that the broker's limit keeps from making a queue says how many are needed.
func testSharedBrokerQueueLimit(t *testing.T) {
	t.Parallel()
	s, broker := newVHost(t, "")
	limit := func(queues int) {
		t.Helper()
		err := broker.Management.Call(t.Context(), http.MethodPut, "/api/vhost-limits/"+broker.VHost+"/max-queues", map[string]int{"value": queues}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	for missing, limited := range map[string]int{"shared": 0, "partition": 3, "member": 5} {
		t.Run(missing, func(t *testing.T) {
			limit(limited)
			checkSetup(t, s.Settings, "max-queues", "needed are 5, two more for each instance")
		})
	}
	t.Run("enough", func(t *testing.T) {
		limit(7)
		v := s.Serve(t)
		limit(8) // for the caller
		s.NewCaller(t).Create(t, harness.NewUser())
		v.Stop(t)
	})
}

// The kinds of queues that are there already, or that the virtual host makes by default.
func testSharedBrokerQueueKinds(t *testing.T) {
	t.Parallel()
	quorum, limited := amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": 20}, amqp.Table{"x-max-length": 100_000}
	for name, x := range map[string]struct {
		defaultType string
		queueType   string     // of the partition queues
		shared      amqp.Table // arguments of the shared queue; nil: it is not there
		kind        string     // of the shared queue, as the log names it; "": no warning
	}{
		"none/quorum":           {"", "quorum", nil, ""},
		"none/classic":          {"", "classic", nil, ""},
		"default_quorum":        {"quorum", "quorum", nil, "quorum"},
		"default_other_classic": {"quorum", "classic", nil, "quorum"},
		"shared_quorum":         {"", "quorum", quorum, "with arguments"},
		"shared_with_arguments": {"", "quorum", limited, "with arguments"},
	} {
		t.Run(name, func(t *testing.T) {
			s, broker := newVHost(t, x.defaultType)
			c := s.NewCaller(t)
			if x.shared != nil {
				declareQueue(t, c, harness.RequestQueue, x.shared)
			}
			v := s.Serve(t, harness.Settings{"cluster.queue_type": x.queueType})
			u := c.Create(t, harness.NewUser())
			c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
			warned := v.Stderr.Count("the shared queue is not a classic queue without arguments; it is used as it is")
			if x.kind == "" && warned != 0 || x.kind != "" && (warned != 1 || !strings.Contains(v.Stderr.String(), `"kind":"`+x.kind+`"`)) {
				t.Errorf("%d warnings, want the kind %q: %s", warned, x.kind, v.Stderr.String())
			}
			for _, q := range broker.Queues(t) {
				if p := strings.TrimPrefix(q.Name, harness.RequestQueue+"/"); p != q.Name && q.Type != x.queueType {
					t.Errorf("the queue of partition %s is of type %s", p, q.Type)
				}
			}
			v.CheckOneConnection(t)
			v.Stop(t)
			s.Serve(t, harness.Settings{"cluster.queue_type": x.queueType}).Stop(t) // with the queues that are there
		})
	}

	t.Run("stream", func(t *testing.T) {
		s, _ := newVHost(t, "")
		declareQueue(t, s.NewCaller(t), harness.RequestQueue, amqp.Table{"x-queue-type": "stream"})
		checkSetup(t, s.Settings, "glotpod.rpc/ident is a stream")
	})
	for _, queueType := range []string{"classic", "quorum"} {
		t.Run("other_partition_queue/"+queueType, func(t *testing.T) {
			s, _ := newVHost(t, "quorum")
			declareQueue(t, s.NewCaller(t), partitionQueue(2), nil) // without a single active consumer
			checkSetup(t, s.Settings.With(harness.Settings{"cluster.queue_type": queueType}),
				fmt.Sprintf("%s is not the queue that cluster.queue_type", partitionQueue(2)), queueType, "delete it")
		})
	}
}

func declareQueue(t *testing.T, c *harness.Caller, name string, arguments amqp.Table) {
	t.Helper()
	if _, err := c.Channel.QueueDeclare(name, true, false, false, false, arguments); err != nil {
		t.Fatal(err)
	}
}
