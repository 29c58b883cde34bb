package cluster

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/topology"
)

// take starts a request as if it had come by a queue.
func (s *testSession) take(queue string, d amqp.Delivery) (*request, *fakeChannel) {
	s.t.Helper()
	c := newFakeChannel()
	consumer, err := consume.Open(func() (consume.Channel, error) { return c, nil }, queue, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	r := &request{session: s.session, consumer: consumer, delivery: d, received: time.Now(), expiration: expirationOf(&d, time.Now())}
	consumer.Track(&r.delivery)
	s.session.bodies.Acquire(s.t.Context(), r.weight())
	r.start()
	return r, c
}

// inFlight returns how many requests and bytes count as in flight.
func (s *testSession) inFlight() [2]float64 {
	return [2]float64{valueOf(s.session.metrics.InFlight), valueOf(s.session.metrics.Bytes)}
}

func TestReply(t *testing.T) {
	reply := actor.UserReply(&actor.User{ID: 1})

	bubble(t, "is_sent_once_and_acknowledged", &fakeStore{}, func(t *testing.T, s *testSession) {
		r, c := s.take(RequestQueue, get(1, 1))
		r.reply(reply)
		r.reply(reply)
		r.replyError(errDown)
		r.leave()
		if body := s.oneReply(c); string(body) != string(reply) {
			t.Errorf("the reply is %q", body)
		}
		if acked := c.acks(); len(acked) > 0 {
			t.Errorf("%v were acknowledged at once", acked)
		}
		time.Sleep(2 * consume.AckDelay)
		if acked := c.acks(); !slices.Equal(acked, []uint64{1}) {
			t.Errorf("%v were acknowledged", acked)
		}
		if n := s.inFlight(); n != [2]float64{} {
			t.Errorf("in flight are still %v", n)
		}
		if n := valueOf(s.session.metrics.Requests.WithLabelValues("get", metrics.WayShared, metrics.OutcomeOK)); n != 1 {
			t.Errorf("%v requests are complete", n)
		}
	})

	bubble(t, "without_a_request_id_is_acknowledged_at_once", &fakeStore{}, func(t *testing.T, s *testSession) {
		d := get(1, 1)
		d.MessageId, d.CorrelationId = "", ""
		r, c := s.take(RequestQueue, d)
		r.reply(reply)
		if acked := c.acks(); !slices.Equal(acked, []uint64{1}) {
			t.Errorf("%v were acknowledged", acked)
		}
	})

	bubble(t, "to_nobody_is_not_sent", &fakeStore{}, func(t *testing.T, s *testSession) {
		d := get(1, 1)
		d.ReplyTo = ""
		r, c := s.take(RequestQueue, d)
		r.reply(reply)
		time.Sleep(time.Second)
		if sent, acked := c.sent(), c.acks(); len(sent) != 0 || len(acked) != 1 {
			t.Errorf("%d replies were sent, %d requests acknowledged", len(sent), len(acked))
		}
	})

	bubble(t, "to_a_name_that_costs_the_connection_is_dropped", &fakeStore{}, func(t *testing.T, s *testSession) {
		d := get(1, 1)
		d.ReplyTo = "amq.rabbitmq.reply-to.garbage"
		r, c := s.take(RequestQueue, d)
		r.reply(reply)
		time.Sleep(time.Second)
		if sent, acked := c.sent(), c.acks(); len(sent) != 0 || len(acked) != 1 || metrics.Count(s.session.metrics.Unanswered) != 1 {
			t.Errorf("%d replies were sent, %d requests acknowledged", len(sent), len(acked))
		}
	})

	bubble(t, "that_fails_has_the_request_delivered_again_later", &fakeStore{}, func(t *testing.T, s *testSession) {
		r, c := s.take(RequestQueue, get(1, 1))
		c.publishErr = errDown
		r.reply(reply)
		time.Sleep(requeueDelay - time.Millisecond)
		if n := c.nacks(); len(n) > 0 {
			t.Errorf("%v were given back at once", n)
		}
		time.Sleep(2 * time.Millisecond)
		if n := c.nacks(); !slices.Equal(n, []uint64{1}) || len(c.acks()) > 0 {
			t.Errorf("%v were given back, %v acknowledged", n, c.acks())
		}
		if n := valueOf(s.session.metrics.Requests.WithLabelValues("get", metrics.WayShared, metrics.OutcomeRequeued)); n != 1 || s.inFlight() != [2]float64{} {
			t.Errorf("%v requests count as requeued", n)
		}
	})

	bubble(t, "on_a_closed_channel_leaves_the_request", &fakeStore{}, func(t *testing.T, s *testSession) {
		r, c := s.take(RequestQueue, get(1, 1))
		r.consumer.Close()
		r.reply(reply)
		synctest.Wait()
		if len(c.sent())+len(c.acks()) > 0 {
			t.Error("something was sent")
		}
		if n := valueOf(s.session.metrics.Requests.WithLabelValues("get", metrics.WayShared, metrics.OutcomeLeft)); n != 1 {
			t.Errorf("%v requests count as left", n)
		}
	})

	for name, complete := range map[string]func(*request){
		"reply": func(r *request) { r.reply(reply) }, "error": func(r *request) { r.replyError(errDown) },
	} {
		bubble(t, name+"_after_the_session_leaves_the_request", &fakeStore{}, func(t *testing.T, s *testSession) {
			r, c := s.take(RequestQueue, get(1, 1))
			s.session.fail(errSessionClosed)
			complete(r)
			synctest.Wait()
			if len(c.sent())+len(c.acks()) > 0 || s.inFlight() != [2]float64{} {
				t.Error("something was sent")
			}
		})
	}

	bubble(t, "an_error_counts_by_its_code", &fakeStore{}, func(t *testing.T, s *testSession) {
		r, c := s.take(RequestQueue, get(1, 1))
		r.replyOr(nil, errDown)
		if code := errorCode(s.oneReply(c)); code != string(actor.InvocationFailed) {
			t.Errorf("the code is %q", code)
		}
		if n := valueOf(s.session.metrics.Requests.WithLabelValues("get", metrics.WayShared, string(actor.InvocationFailed))); n != 1 {
			t.Errorf("%v requests have failed", n)
		}
	})

	bubble(t, "an_overdue_partition_is_an_error_of_its_own", &fakeStore{}, func(t *testing.T, s *testSession) {
		r, c := s.take(RequestQueue, get(1, 1))
		r.replyError(errPartitionOverdue)
		if message := decode(t, s.oneReply(c))["message"]; message != "the queue of the user's partition takes nothing in" {
			t.Errorf("the message is %q", message)
		}
		if n := valueOf(s.session.metrics.Overloads.WithLabelValues(metrics.OverloadPartition)); n != 1 {
			t.Errorf("%v overloads were counted", n)
		}
	})
}

func TestOperation(t *testing.T) {
	dead := func(keys ...any) amqp.Table { return amqp.Table{"queue": RequestQueue, "routing-keys": keys} }
	deaths := func(all ...any) amqp.Table { return amqp.Table{"x-death": all} }
	for _, x := range []struct {
		name, queue, operation, way string
		d                           amqp.Delivery
	}{
		{"shared", RequestQueue, "get", metrics.WayShared, amqp.Delivery{Exchange: "amq.topic", RoutingKey: "rpc.user.get", Type: "rpc.user.patch"}},
		{"shared_unknown", RequestQueue, "nope", metrics.WayShared, amqp.Delivery{Exchange: "amq.topic", RoutingKey: "rpc.user.nope", Type: "rpc.user.get"}},
		{"unrouted_direct", RequestQueue, "get", metrics.WayShared, amqp.Delivery{Exchange: topology.DirectExchange, RoutingKey: "7", Type: "rpc.user.get"}},
		{"direct", PartitionQueue(1), "get", metrics.WayDirect, amqp.Delivery{Exchange: topology.DirectExchange, RoutingKey: "7", Type: "rpc.user.get"}},
		{"direct_with_an_operation_as_key", PartitionQueue(1), "get", metrics.WayDirect,
			amqp.Delivery{Exchange: topology.DirectExchange, RoutingKey: "rpc.user.patch", Type: "rpc.user.get"}},
		{"direct_without_type", PartitionQueue(1), "", metrics.WayDirect, amqp.Delivery{Exchange: topology.DirectExchange, RoutingKey: "rpc.user.get"}},
		{"forwarded", PartitionQueue(1), "get", metrics.WayForwarded, amqp.Delivery{RoutingKey: PartitionQueue(1), Type: "rpc.user.get"}},
		{"moved_to_a_partition", PartitionQueue(1), "get", metrics.WayForwarded, amqp.Delivery{RoutingKey: "rpc.user.get"}},
		{"moved_by_name", RequestQueue, "patch", metrics.WayShared, amqp.Delivery{RoutingKey: RequestQueue, Type: "rpc.user.patch"}},
		{"no_prefix", RequestQueue, "", metrics.WayShared, amqp.Delivery{Exchange: "amq.topic", RoutingKey: "get", Type: "get"}},
		{"dead_lettered", RequestQueue, "patch", metrics.WayShared,
			amqp.Delivery{RoutingKey: RequestQueue, Headers: deaths(dead("rpc.user.patch", "rpc.user.get"), dead("rpc.user.get"))}},
		{"dead_lettered_with_a_type", RequestQueue, "get", metrics.WayShared,
			amqp.Delivery{RoutingKey: RequestQueue, Type: "rpc.user.get", Headers: deaths(dead("rpc.user.patch"))}},
		{"dead_lettered_twice", RequestQueue, "patch", metrics.WayShared,
			amqp.Delivery{RoutingKey: RequestQueue, Headers: deaths(dead("parked"), dead("rpc.user.patch"))}},
		{"dead_lettered_to_a_partition", PartitionQueue(1), "patch", metrics.WayForwarded,
			amqp.Delivery{RoutingKey: PartitionQueue(1), Headers: deaths(dead("rpc.user.patch"))}},
		{"deaths_are_no_list", RequestQueue, "", metrics.WayShared, amqp.Delivery{Headers: amqp.Table{"x-death": "rpc.user.patch"}}},
		{"deaths_are_malformed", RequestQueue, "patch", metrics.WayShared, amqp.Delivery{Headers: deaths(nil, 7, amqp.Table{}, amqp.Table{"routing-keys": "rpc.user.get"},
			dead(), dead(nil, []any{}, "get"), dead("rpc.user.patch"))}},
		{"deaths_are_many", RequestQueue, "", metrics.WayShared,
			amqp.Delivery{Headers: deaths(append(make([]any, maxDeathsRead), dead("rpc.user.patch"))...)}},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := &request{consumer: &consume.Consumer{Queue: x.queue}, delivery: x.d}
			if r.operation() != x.operation || r.way() != x.way {
				t.Errorf("operation %q by %q", r.operation(), r.way())
			}
		})
	}
}
