package cluster

import (
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/partition"
)

// take starts a request as if it had come by a queue.
func (s *testSession) take(queue string, d amqp.Delivery) (*request, *fakeChannel) {
	s.t.Helper()
	c := newFakeChannel()
	consumer, err := consume.Open(func() (consume.Channel, error) { return c, nil }, queue, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	r := &request{session: s.session, consumer: consumer, delivery: d, received: time.Now(), size: consume.Size(&d), expiration: expirationOf(&d, time.Now())}
	consumer.Track(&r.delivery)
	s.session.bodies.Acquire(s.t.Context(), s.session.bodies.Weight(r.size))
	r.start()
	s.session.turns.Add(r.sender, r, r.received)
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

	bubble(t, "of_a_write_that_gets_another_request_id_next_time_is_acknowledged_at_once", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startShared()
		s.serve(1)
		d := patch(1, userOf(1, 0))
		d.MessageId, d.CorrelationId = "", ""
		s.shared.deliveries <- d
		synctest.Wait()
		if acked := s.shared.acks(); !slices.Equal(acked, []uint64{1}) {
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
		want := map[string]any{"error": "invocation_failed", "message": "the queue of the user's partition takes nothing in", "retryable": true, "retry_after_ms": int64(1000)}
		if reply := decode(t, s.oneReply(c)); !maps.Equal(reply, want) {
			t.Errorf("the reply is %v", reply)
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

// TestRequestID checks by which id a write is committed.
func TestRequestID(t *testing.T) {
	user := userOf(1, 0)
	var mu sync.Mutex // guards the following variable
	var ids []actor.RequestID
	store := &fakeStore{commit: func(_ partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, writes[0].RequestID)
		return []actor.Outcome{{UserID: user, Applied: true}}, nil
	}}
	committed := func() []actor.RequestID {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		all := ids
		ids = nil
		return all
	}
	none := func(d *amqp.Delivery) { d.MessageId, d.ReplyTo, d.CorrelationId = "", "", "" }

	for name, change := range map[string]func(*amqp.Delivery){
		"without_properties":           none,
		"without_a_correlation_id":     func(d *amqp.Delivery) { d.MessageId, d.CorrelationId = "", "" },
		"with_a_reply_to_that_is_lost": func(d *amqp.Delivery) { d.MessageId, d.ReplyTo = "", "amq.rabbitmq.reply-to.x" },
		"with_a_reply_to":              func(d *amqp.Delivery) { d.MessageId = "" },
		"with_a_message_id":            func(d *amqp.Delivery) {},
	} {
		bubble(t, "is_the_same_in_each_copy/"+name, store, func(t *testing.T, s *testSession) {
			d := patch(1, user)
			change(&d)
			s.startShared()
			s.serve(3)
			s.shared.deliveries <- d
			s.channel().deliveries <- copyOf(1, s.oneForward(PartitionQueue(1)).message) // to the wrong queue
			synctest.Wait()
			sent := s.forwarding.sent()
			s.serve(1)
			s.channel().deliveries <- copyOf(1, sent[0].message)
			s.channel().deliveries <- copyOf(2, sent[1].message)
			got := committed()
			if len(got) != 2 || got[0] != got[1] || got[0] == (actor.RequestID{}) {
				t.Fatalf("the ids are %x", got)
			}
			if want := actor.RequestIDOf(d.MessageId, d.ReplyTo, d.CorrelationId); want != (actor.RequestID{}) && got[0] != want {
				t.Errorf("the id is %x, want %x", got[0], want)
			}
		})
	}

	bubble(t, "is_another_one_for_each_request", store, func(t *testing.T, s *testSession) {
		s.startShared()
		s.serve(1)
		for tag := range 2 {
			d := patch(uint64(tag+1), user)
			none(&d)
			s.shared.deliveries <- d
			synctest.Wait() // a full mailbox would have the next one spilled
		}
		if got := committed(); len(got) != 2 || got[0] == got[1] {
			t.Errorf("the ids are %x", got)
		}
	})

	victim := actor.RequestIDOf("victim", "", "")
	for name, forge := range map[string]func(s *testSession, d *amqp.Delivery) []byte{
		"without_a_seal":    func(*testSession, *amqp.Delivery) []byte { return append(victim[:], make([]byte, 16)...) },
		"with_another_key":  func(_ *testSession, d *amqp.Delivery) []byte { return seal.Sealer{{99}}.RequestID(victim, d.Body) },
		"of_another_body":   func(s *testSession, _ *amqp.Delivery) []byte { return sealer(s).RequestID(victim, nil) },
		"of_a_new_users_id": func(s *testSession, d *amqp.Delivery) []byte { return sealer(s).UserID(user, d.Body) },
	} {
		bubble(t, "is_not_chosen_by_a_client/"+name, store, func(t *testing.T, s *testSession) {
			s.serve(1)
			d := direct(patch(1, user), "1")
			d.Headers = amqp.Table{requestIDHeader: forge(s, &d)}
			s.channel().deliveries <- d
			if got, want := committed(), actor.RequestIDOf(d.MessageId, "", ""); len(got) != 1 || got[0] != want {
				t.Errorf("the id is %x, want %x", got, want)
			}
		})
	}

	bubble(t, "is_not_sent_by_the_shared_queue", store, func(t *testing.T, s *testSession) {
		s.startShared()
		s.serve(1)
		d := patch(1, user)
		d.Headers = amqp.Table{requestIDHeader: sealer(s).RequestID(victim, d.Body)}
		s.shared.deliveries <- d
		if got, want := committed(), actor.RequestIDOf(d.MessageId, "", ""); len(got) != 1 || got[0] != want {
			t.Errorf("the id is %x, want %x", got, want)
		}
	})
}

func sealer(s *testSession) seal.Sealer { return seal.Sealer(s.session.o.Secret) }

// copyOf returns a forwarded request as it comes by a partition's queue.
func copyOf(tag uint64, m amqp.Publishing) amqp.Delivery {
	return amqp.Delivery{DeliveryTag: tag, Type: m.Type, RoutingKey: "queue", MessageId: m.MessageId, ReplyTo: m.ReplyTo,
		CorrelationId: m.CorrelationId, Headers: m.Headers, Body: m.Body}
}

// TestFirstReceived checks which writes may use a request id again.
func TestFirstReceived(t *testing.T) {
	user := userOf(1, 0)
	var mu sync.Mutex // guards the following variable
	var received []time.Time
	store := &fakeStore{commit: func(_ partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
		mu.Lock()
		defer mu.Unlock()
		received = append(received, writes[0].FirstReceived)
		return []actor.Outcome{{UserID: user, Applied: true}}, nil
	}}
	for name, c := range map[string]struct {
		change func(*amqp.Delivery)
		known  bool
	}{
		"by_reply_to_and_correlation_id": {func(*amqp.Delivery) {}, true},
		"with_a_message_id":              {func(d *amqp.Delivery) { d.MessageId = "m" }, false},
		"delivered_again":                {func(d *amqp.Delivery) { d.Redelivered = true }, false},
		"dead_lettered":                  {func(d *amqp.Delivery) { d.Headers = amqp.Table{"x-death": []any{}} }, false},
		"moved_from_a_queue":             {func(d *amqp.Delivery) { d.Exchange, d.RoutingKey, d.Type = "", "queue", d.RoutingKey }, false},
		"with_a_header_of_the_caller":    {func(d *amqp.Delivery) { d.Headers = amqp.Table{receivedHeader: int64(1)} }, true},
	} {
		bubble(t, name, store, func(t *testing.T, s *testSession) {
			d := patch(1, user)
			d.MessageId = ""
			c.change(&d)
			at := time.Now()
			s.startShared()
			s.shared.deliveries <- d
			m := s.oneForward(PartitionQueue(1)).message
			s.confirm(1, true)
			time.Sleep(time.Minute)
			s.serve(1)
			again := d
			again.DeliveryTag = 2
			s.shared.deliveries <- again
			synctest.Wait() // it goes to the queue too, behind the first one
			s.channel().deliveries <- copyOf(1, m)
			s.channel().deliveries <- copyOf(3, s.forwarding.sent()[1].message)
			redelivered := copyOf(2, m)
			redelivered.Redelivered = true
			s.channel().deliveries <- redelivered
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			for _, got := range received {
				want := c.known && (got.Equal(at) || got.Equal(at.Add(time.Minute)))
				if !want && !(got.IsZero() && !c.known) {
					t.Errorf("first received at %v, sent at %v", got, at)
				}
			}
			if len(received) != 3 {
				t.Errorf("%d writes were committed", len(received))
			}
			received = nil
		})
	}

	bubble(t, "of_a_direct_request", store, func(t *testing.T, s *testSession) {
		s.serve(1)
		d := direct(patch(1, user), "1")
		d.MessageId, d.Headers = "", amqp.Table{receivedHeader: int64(1)}
		s.channel().deliveries <- d
		d.DeliveryTag, d.Redelivered = 2, true
		s.channel().deliveries <- d
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		slices.SortFunc(received, time.Time.Compare)
		if len(received) != 2 || !received[0].IsZero() || !received[1].Equal(time.Now()) {
			t.Errorf("first received at %v", received)
		}
	})
}
