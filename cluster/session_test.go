package cluster

import (
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"
	"go.uber.org/zap/zaptest"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/internal/sizes"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A testSession is a session over fake channels. It is used in a synctest bubble.
type testSession struct {
	session       *session
	t             *testing.T
	store         *fakeStore
	forwarding    fakeForwarding
	relaying      fakeForwarding
	limiting      fakeForwarding // measures the size of messages
	notifications *fakeNotifyPublisher
	coordination  *fakeCoordinator
	shared        *fakeChannel
	ended         sync.WaitGroup

	mu     sync.Mutex // guards the following fields
	queues []*fakeChannel
	setUp  func(*fakeChannel) // is called with each new channel for partitions
}

const testPartitions = 4

var testLimits = msgpack.Limits{Bytes: 1 << 20, Depth: 32, Values: 1000}

// newTestSession returns a session that serves no partition yet. end ends its goroutines.
func newTestSession(t *testing.T, store *fakeStore) *testSession {
	t.Helper()
	log := zaptest.NewLogger(t)
	i := New(Options{
		Store: store, Name: "one", Start: 1, Partitions: testPartitions, QueueType: topology.Quorum, Secret: [][]byte{{1}},
		Broker: broker.Options{Heartbeat: time.Second}, Prefetch: 64, Mailbox: 1, Limits: testLimits, InFlight: 1 << 20, Log: log,
	})
	s := &testSession{t: t, store: store, notifications: new(fakeNotifyPublisher)}
	s.coordination = &fakeCoordinator{batchqueue.New[ownership.Event](), batchqueue.New[leaseEnd]()}
	s.session = newSession(i, new(amqp.Connection), new(amqp.Connection), 1)
	s.session.coordinator, s.session.o.Store = s.coordination, store
	s.session.repairer = topology.NewRepairer(topology.New(topology.Options{Log: log}), store, topology.RepairerOptions{})
	s.session.sizes = sizes.NewChecker(s.session.ctx, s.limiting.open, s.session.metrics.TooLarge, log)
	s.session.sizes.Start()
	s.session.forwarder = newForwarder(s.forwarding.open, s.session.runForwards, s.session.o.queueOf, testPartitions, seal.Sealer(i.o.Secret))
	s.session.relay = newRelay(s.session, s.relaying.open)
	m := s.session.metrics
	s.session.notifier = notify.New(notify.Options{
		Outbox: store, Partitions: testPartitions, Connect: s.notifications.connect, Log: log,
		Metrics: notify.Metrics{Sent: m.Notified, Refused: m.Refused, Lag: m.NotifyLag, Overdue: m.Overdue, Oldest: m.Oldest},
	})
	s.session.channels = consume.NewPool(s.open, 8, 0, &s.session.running)
	s.ended.Go(func() { s.session.notifier.Run(s.session.ctx) })
	s.ended.Go(func() { s.session.acks.Run(s.session.ctx) })
	s.ended.Go(func() { s.session.reads.Run(s.session.ctx) })
	s.ended.Go(func() { s.session.turns.Run(s.session.ctx) })
	return s
}

// open opens a channel for a partition.
func (s *testSession) open() (consume.Channel, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := newFakeChannel()
	if s.setUp != nil {
		s.setUp(c)
	}
	s.queues = append(s.queues, c)
	return c, nil
}

// channel returns the latest channel that was opened for a partition.
func (s *testSession) channel() *fakeChannel {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queues[len(s.queues)-1]
}

// opened returns how many channels were opened for partitions.
func (s *testSession) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queues)
}

// end closes everything, and waits for all goroutines. It is deferred by each test.
func (s *testSession) end() {
	s.session.fail(errSessionClosed)
	putBackAll(s.session.turns.Close())
	for p := range s.session.slots {
		s.session.Abandon(p)
	}
	s.session.relay.Close()
	if s.shared != nil {
		s.shared.Close()
	}
	s.session.running.Wait()
	s.ended.Wait()
}

// startShared starts to receive requests from the shared queue.
func (s *testSession) startShared() {
	s.shared = newFakeChannel()
	s.session.shared = consume.NewKeeper(consume.KeeperOptions{
		Open: func() (*consume.Consumer, error) {
			consumer, err := consume.Open(func() (consume.Channel, error) { return s.shared, nil }, RequestQueue, 64)
			if err != nil {
				return nil, err
			}
			return consumer, consumer.Start(false)
		},
		Receive: func(c *consume.Consumer) bool { return s.session.receive(s.session.ctx, c, nil) > 0 },
		OnLost:  func(err error) { s.t.Error(err) },
		OnFound: func() {},
	})
	s.session.shared.Start(s.session.ctx, &s.session.running)
}

// posted returns the events that were posted to the coordinator since the last call.
func (s *testSession) posted() []ownership.Event { return s.coordination.events.Take() }

// leaseEnds returns the leases that the coordinator was to end since the last call.
func (s *testSession) leaseEnds() []leaseEnd { return s.coordination.ends.Take() }

// confirm confirms the request that was forwarded as the n-th, from 1 on.
func (s *testSession) confirm(n int, ack bool) { s.forwarding.confirm(n, ack) }

// userOf returns a user id of a partition, the n-th one from 0 on.
func userOf(number, n int) int64 {
	for id := int64(1); ; id++ {
		if partition.Of(id, testPartitions) == number {
			if n == 0 {
				return id
			}
			n--
		}
	}
}

// encode returns the body of a request.
func encode(v map[string]any) []byte {
	body, err := msgp.AppendMapStrIntf(nil, v)
	if err != nil {
		panic(err)
	}
	return body
}

// decode returns a reply.
func decode(t *testing.T, body []byte) map[string]any {
	t.Helper()
	v, _, err := msgp.ReadMapStrIntfBytes(body, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// errorCode returns the code of an error reply, "" if it is none.
func errorCode(body []byte) string { return string(actor.ErrorCode(body)) }

// get, patch and create are requests from the shared queue.
func get(tag uint64, user int64) amqp.Delivery {
	return sharedRequest(tag, "get", map[string]any{"user_id": user})
}

func patch(tag uint64, user int64) amqp.Delivery {
	return sharedRequest(tag, "patch", map[string]any{"user_id": user, "ops": []any{
		map[string]any{"op": "replace", "path": "/name", "value": "Ada"}}})
}

func create(tag uint64) amqp.Delivery {
	return sharedRequest(tag, "create", map[string]any{"name": "Ada", "email": "ada", "github": map[string]any{"id": 1, "access_token": "t"}})
}

func sharedRequest(tag uint64, operation string, body map[string]any) amqp.Delivery {
	return amqp.Delivery{
		DeliveryTag: tag, Exchange: topology.RequestExchange, RoutingKey: topology.RequestPrefix + operation,
		MessageId: operation + "-request", ReplyTo: "caller", CorrelationId: "correlation", Body: encode(body),
	}
}

// forwarded returns a request as it comes by a partition's queue.
func forwarded(d amqp.Delivery) amqp.Delivery {
	d.Exchange, d.Type, d.RoutingKey = "", d.RoutingKey, "queue"
	return d
}

// direct returns a request about a user as a caller sends it to the direct exchange.
func direct(d amqp.Delivery, key string) amqp.Delivery {
	d.Exchange, d.Type, d.RoutingKey = topology.DirectExchange, d.RoutingKey, key
	return d
}

func itoa(id int64) string { return strconv.FormatInt(id, 10) }

// valueOf returns the value of a counter or a gauge.
func valueOf(m prometheus.Metric) float64 {
	var written dto.Metric
	if m.Write(&written) != nil {
		return -1
	}
	return written.GetCounter().GetValue() + written.GetGauge().GetValue()
}

// bubble runs a test with a session in a synctest bubble.
func bubble(t *testing.T, name string, store *fakeStore, test func(*testing.T, *testSession)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newTestSession(t, store)
			defer s.end()
			test(t, s)
		})
	})
}

// serve makes the session serve a partition under epoch 1.
func (s *testSession) serve(number int) *servedPartition {
	s.t.Helper()
	s.session.StartServing(ownership.Consume{Lease: partition.Lease{Partition: number, Epoch: 1}})
	synctest.Wait()
	p := s.session.slots.accepting(number)
	if p == nil {
		s.t.Fatalf("the partition %d is not served", number)
	}
	s.posted()
	return p
}

// oneReply returns the body of the only reply on a channel.
func (s *testSession) oneReply(c *fakeChannel) []byte {
	s.t.Helper()
	synctest.Wait()
	sent := c.sent()
	if len(sent) != 1 {
		s.t.Fatalf("%d replies were sent", len(sent))
	}
	if p := sent[0]; p.exchange != "" || p.key != "caller" || p.message.CorrelationId != "correlation" {
		s.t.Errorf("the reply went to %q %q as %q", p.exchange, p.key, p.message.CorrelationId)
	}
	return sent[0].message.Body
}

// oneForward returns the only request that was forwarded.
func (s *testSession) oneForward(queue string) publication {
	s.t.Helper()
	synctest.Wait()
	sent := s.forwarding.sent()
	if len(sent) != 1 || sent[0].exchange != "" || sent[0].key != queue {
		s.t.Fatalf("forwarded were %+v", sent)
	}
	return sent[0]
}
