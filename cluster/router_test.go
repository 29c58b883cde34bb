package cluster

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/throttle"
)

func TestSharedQueue(t *testing.T) {
	user := userOf(2, 0)
	found := func(l *actor.Lookup) (*actor.User, error) { return &actor.User{ID: user, Name: "Ada"}, nil }

	bubble(t, "a_read_is_carried_out_here", &fakeStore{find: found}, func(t *testing.T, s *testSession) {
		s.startShared()
		s.shared.deliveries <- get(1, user)
		reply := decode(t, s.oneReply(s.shared))
		if result, _ := reply["result"].(map[string]any); result["name"] != "Ada" {
			t.Errorf("the reply is %v", reply)
		}
		if len(s.forwarding.sent()) > 0 {
			t.Error("the read was forwarded as well")
		}
	})

	bubble(t, "a_missing_user_is_an_error_reply", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startShared()
		s.shared.deliveries <- get(1, user)
		if code := errorCode(s.oneReply(s.shared)); code != string(actor.NoSuchUser.Code) {
			t.Errorf("the code is %q", code)
		}
	})

	failing := &fakeStore{
		find:   func(*actor.Lookup) (*actor.User, error) { return nil, errDown },
		list:   func(*actor.Page) (actor.UserPage, error) { return actor.UserPage{}, errDown },
		commit: func(partition.Lease, []*actor.Write) ([]actor.Outcome, error) { return nil, errDown },
	}
	bubble(t, "a_failed_read_is_an_error_reply", failing, func(t *testing.T, s *testSession) {
		s.startShared()
		s.shared.deliveries <- get(1, user)
		if code := errorCode(s.oneReply(s.shared)); code != string(actor.InvocationFailed) {
			t.Errorf("the code is %q", code)
		}
	})

	bubble(t, "a_failed_list_is_an_error_reply", failing, func(t *testing.T, s *testSession) {
		s.startShared()
		s.shared.deliveries <- sharedRequest(1, "list", map[string]any{})
		if code := errorCode(s.oneReply(s.shared)); code != string(actor.InvocationFailed) {
			t.Errorf("the code is %q", code)
		}
	})

	bubble(t, "a_failed_write_is_an_error_reply", failing, func(t *testing.T, s *testSession) {
		s.startShared()
		s.serve(2)
		s.shared.deliveries <- patch(1, user)
		if code := errorCode(s.oneReply(s.shared)); code != string(actor.InvocationFailed) {
			t.Errorf("the code is %q", code)
		}
	})

	page := actor.UserPage{Users: []actor.User{{ID: 7}}, NextAfterID: 7}
	paged := &fakeStore{list: func(*actor.Page) (actor.UserPage, error) { return page, nil }}
	for operation, args := range map[string]map[string]any{"list": {"page_size": 1}, "get_many": {"user_ids": []any{7, 8}}} {
		bubble(t, "a_"+operation+"_is_carried_out_here", paged, func(t *testing.T, s *testSession) {
			s.startShared()
			s.shared.deliveries <- sharedRequest(1, operation, args)
			if reply := decode(t, s.oneReply(s.shared)); reply["result"] == nil {
				t.Errorf("the reply is %v", reply)
			}
		})
	}

	for name, c := range map[string]struct {
		page    actor.ChangePage
		refusal *actor.Refusal
		err     error
		code    actor.Code
	}{
		"are_read_here":                          {page: actor.ChangePage{After: "p"}},
		"that_are_gone_are_an_error_reply":       {refusal: actor.ChangesMissing, code: actor.PositionGone},
		"that_cannot_be_read_are_an_error_reply": {err: errDown, code: actor.InvocationFailed},
	} {
		logged := &fakeStore{changes: func(*actor.ChangesPage) (actor.ChangePage, *actor.Refusal, error) { return c.page, c.refusal, c.err }}
		bubble(t, "changes_"+name, logged, func(t *testing.T, s *testSession) {
			s.startShared()
			s.shared.deliveries <- sharedRequest(1, "changes", map[string]any{"page_size": 1})
			reply := s.oneReply(s.shared)
			result, _ := decode(t, reply)["result"].(map[string]any)
			if c.code != actor.ErrorCode(reply) || c.code == "" && result["after"] != "p" {
				t.Errorf("the reply is %v", decode(t, reply))
			}
		})
	}

	bubble(t, "a_malformed_request_is_an_error_reply", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startShared()
		d := get(1, user)
		d.Body = []byte{0xc1}
		s.shared.deliveries <- d
		if code := errorCode(s.oneReply(s.shared)); code != string(actor.DecodeError) {
			t.Errorf("the code is %q", code)
		}
	})

	bubble(t, "a_write_is_forwarded_and_acknowledged_when_confirmed", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startShared()
		d := patch(1, user)
		s.shared.deliveries <- d
		p := s.oneForward(PartitionQueue(2))
		if m := p.message; m.Type != "rpc.user.patch" || m.ReplyTo != "caller" || m.MessageId != d.MessageId || string(m.Body) != string(d.Body) {
			t.Errorf("forwarded was %+v", m)
		}
		time.Sleep(time.Second)
		if acked := s.shared.acks(); len(acked) > 0 {
			t.Fatalf("%v were acknowledged before the broker had confirmed", acked)
		}
		s.confirm(1, true)
		time.Sleep(time.Second)
		if acked := s.shared.acks(); !slices.Equal(acked, []uint64{1}) {
			t.Errorf("%v were acknowledged", acked)
		}
		if len(s.shared.sent()) > 0 {
			t.Error("the router has sent a reply of its own")
		}
		if n := valueOf(s.session.metrics.Requests.WithLabelValues("patch", metrics.WayShared, metrics.OutcomeForwarded)); n != 1 {
			t.Errorf("%v requests count as forwarded", n)
		}
	})

	bubble(t, "a_write_that_was_moved_is_forwarded_with_its_operation", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startShared()
		d := patch(1, user)
		d.Exchange, d.RoutingKey = "", RequestQueue
		d.Headers = amqp.Table{"x-death": []any{amqp.Table{"routing-keys": []any{"rpc.user.patch"}}}}
		s.shared.deliveries <- d
		if m := s.oneForward(PartitionQueue(2)).message; m.Type != "rpc.user.patch" {
			t.Errorf("forwarded was %+v", m)
		}
	})

	bubble(t, "a_request_without_an_operation_is_refused_and_logged", &fakeStore{}, func(t *testing.T, s *testSession) {
		log, logs := observer.New(zap.WarnLevel)
		s.session.nameless = throttle.New(zap.New(log), zap.WarnLevel, "refused", namelessEvery)
		s.startShared()
		d := patch(1, user)
		d.Exchange, d.RoutingKey = "", RequestQueue
		s.shared.deliveries <- d
		if code := errorCode(s.oneReply(s.shared)); code != string(actor.OperationNotFound) {
			t.Errorf("the code is %q", code)
		}
		d.DeliveryTag = 2
		s.shared.deliveries <- d
		synctest.Wait()
		if logged := logs.All(); len(logged) != 1 || logged[0].ContextMap()["queue"] != RequestQueue {
			t.Errorf("logged was %+v", logged)
		}
	})

	var lease partition.Lease
	recording := &fakeStore{commit: func(l partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
		lease = l
		return []actor.Outcome{{Refusal: writes[0].Refusal(), UserID: writes[0].UserID, Applied: true}}, nil
	}}
	bubble(t, "a_write_is_committed_under_the_lease_if_served_here", recording, func(t *testing.T, s *testSession) {
		s.startShared()
		s.serve(2)
		s.shared.deliveries <- patch(1, user)
		if reply := decode(t, s.oneReply(s.shared)); reply["error"] != nil {
			t.Errorf("the reply is %v", reply)
		}
		if lease != (partition.Lease{Partition: 2, Epoch: 1}) {
			t.Errorf("it was committed under %+v", lease)
		}
		time.Sleep(time.Second)
		if acked := s.shared.acks(); !slices.Equal(acked, []uint64{1}) {
			t.Errorf("%v were acknowledged", acked)
		}
	})

	bubble(t, "a_malformed_write_needs_no_partition", recording, func(t *testing.T, s *testSession) {
		s.startShared()
		lease = partition.Lease{Partition: 9}
		s.shared.deliveries <- sharedRequest(1, "patch", map[string]any{"user_id": user, "ops": 7})
		if code := errorCode(s.oneReply(s.shared)); code == "" {
			t.Error("it was applied")
		}
		if lease != (partition.Lease{}) || len(s.forwarding.sent()) > 0 {
			t.Errorf("it was committed under %+v", lease)
		}
	})

	panicking := &fakeStore{find: func(*actor.Lookup) (*actor.User, error) { panic("a bug") }}
	bubble(t, "a_panic_costs_one_request", panicking, func(t *testing.T, s *testSession) {
		log, logs := observer.New(zap.ErrorLevel)
		s.session.o.Log = zap.New(log)
		s.startShared()
		request := get(1, user)
		request.Headers = amqp.Table{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
		s.shared.deliveries <- request
		if code := errorCode(s.oneReply(s.shared)); code != string(actor.InvocationFailed) {
			t.Errorf("the code is %q", code)
		}
		if all := logs.All(); len(all) != 1 || all[0].ContextMap()["trace_id"] != "0af7651916cd43dd8448eb211c80319c" || all[0].ContextMap()["span_id"] != "b7ad6b7169203331" {
			t.Errorf("the log has %v", all)
		}
		if n := metrics.Count(s.session.metrics.Panics); n != 1 {
			t.Errorf("%d panics were counted", n)
		}
		s.shared.deliveries <- patch(2, user)
		s.oneForward(PartitionQueue(2))
	})

	var reads sync.WaitGroup
	waiting := &fakeStore{find: func(*actor.Lookup) (*actor.User, error) { reads.Wait(); return nil, nil }}
	bubble(t, "bodies_in_flight_are_bounded", waiting, func(t *testing.T, s *testSession) {
		reads.Add(1)
		s.startShared()
		room := int64(len(get(1, user).Body)) // for one request at a time
		s.session.bodies.Acquire(t.Context(), s.session.o.InFlight-room)
		s.shared.deliveries <- get(1, user)
		s.shared.deliveries <- get(2, user)
		synctest.Wait()
		if n := valueOf(s.session.metrics.InFlight); n != 1 {
			t.Errorf("%v requests are in flight", n)
		}
		reads.Done()
		synctest.Wait()
		if sent := s.shared.sent(); len(sent) != 2 {
			t.Errorf("%d replies were sent", len(sent))
		}
	})
}

func TestExpiration(t *testing.T) {
	user := userOf(2, 0)
	expiring := func(tag uint64) amqp.Delivery {
		d := patch(tag, user)
		d.Expiration = "3000"
		return d
	}
	// receive has a request wait for the limit on bodies.
	receive := func(s *testSession, d amqp.Delivery, wait time.Duration) {
		s.startShared()
		s.session.bodies.Acquire(s.t.Context(), s.session.o.InFlight)
		s.shared.deliveries <- d
		time.Sleep(wait)
		s.session.bodies.Release(s.session.o.InFlight)
		synctest.Wait()
	}
	checkDropped := func(t *testing.T, s *testSession, c *fakeChannel, tag uint64, way string) {
		t.Helper()
		time.Sleep(time.Second)
		if acked := c.acks(); !slices.Contains(acked, tag) || len(s.forwarding.sent()) > 0 {
			t.Errorf("%v were acknowledged, %d were forwarded", acked, len(s.forwarding.sent()))
		}
		if n := valueOf(s.session.metrics.Requests.WithLabelValues("patch", way, metrics.OutcomeExpired)); n != 1 || s.inFlight() != [2]float64{} {
			t.Errorf("%v requests count as expired", n)
		}
	}

	bubble(t, "the_rest_is_forwarded", &fakeStore{}, func(t *testing.T, s *testSession) {
		receive(s, expiring(1), time.Second)
		if rest := s.oneForward(PartitionQueue(2)).message.Expiration; rest != "2000" {
			t.Errorf("the rest is %q", rest)
		}
	})

	for _, unlimited := range []string{"", "0", "soon", "-1"} {
		bubble(t, "none_is_forwarded_as_it_is/"+unlimited, &fakeStore{}, func(t *testing.T, s *testSession) {
			d := expiring(1)
			d.Expiration = unlimited
			receive(s, d, time.Hour)
			if rest := s.oneForward(PartitionQueue(2)).message.Expiration; rest != unlimited {
				t.Errorf("the rest is %q", rest)
			}
		})
	}

	bubble(t, "expired_before_it_is_routed", &fakeStore{}, func(t *testing.T, s *testSession) {
		receive(s, expiring(1), 4*time.Second)
		checkDropped(t, s, s.shared, 1, metrics.WayShared)
		if len(s.shared.sent()) > 0 {
			t.Error("a reply was sent")
		}
	})

	slow := &fakeStore{commit: func(_ partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
		time.Sleep(4 * time.Second)
		return []actor.Outcome{{UserID: writes[0].UserID, Applied: true}}, nil
	}}
	bubble(t, "expired_in_a_mailbox", slow, func(t *testing.T, s *testSession) {
		s.serve(2)
		c := s.channel()
		c.deliveries <- forwarded(expiring(1))
		synctest.Wait() // it is being committed
		c.deliveries <- forwarded(expiring(2))
		time.Sleep(5 * time.Second)
		checkDropped(t, s, c, 2, metrics.WayForwarded)
		if sent := c.sent(); len(sent) != 1 {
			t.Errorf("%d replies were sent", len(sent))
		}
	})

	bubble(t, "spilled", &fakeStore{}, func(t *testing.T, s *testSession) {
		p := s.serve(2)
		d := forwarded(expiring(1))
		d.Headers = amqp.Table{spillHeader: p.spilled.add(user)}
		s.session.bodies.Acquire(t.Context(), s.session.o.InFlight)
		s.channel().deliveries <- d
		time.Sleep(4 * time.Second)
		s.session.bodies.Release(s.session.o.InFlight)
		checkDropped(t, s, s.channel(), 1, metrics.WayForwarded)
		if p.spilled.has(user) {
			t.Error("the user still has spilled writes")
		}
	})

	taken := func(partition.Lease, []*actor.Write) ([]actor.Outcome, error) {
		time.Sleep(4 * time.Second)
		return []actor.Outcome{{Refusal: actor.UserIDTaken, After: &actor.User{ID: user}}}, nil
	}
	bubble(t, "expired_before_it_is_spilled", &fakeStore{reserved: []int64{user, userOf(2, 1)}, commit: taken}, func(t *testing.T, s *testSession) {
		s.startShared()
		p := s.serve(2)
		mark := p.spilled.add(userOf(2, 1)) // so that a create with this id is spilled
		d := create(1)
		d.Expiration = "3000"
		s.shared.deliveries <- d
		time.Sleep(5 * time.Second)
		if n := valueOf(s.session.metrics.Requests.WithLabelValues("create", metrics.WayShared, metrics.OutcomeExpired)); n != 1 {
			t.Errorf("%v requests count as expired", n)
		}
		if n := valueOf(s.session.metrics.Overloads.WithLabelValues(metrics.OverloadMailbox)); n != 0 {
			t.Errorf("%v overloads were counted", n)
		}
		if p.spilled.remove(userOf(2, 1), mark); p.spilled.has(userOf(2, 1)) {
			t.Error("the dropped create counts as spilled")
		}
	})
}

func TestPartitionQueue(t *testing.T) {
	user := userOf(1, 0)

	bubble(t, "its_own_requests_go_to_the_actors", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.serve(1)
		s.channel().deliveries <- forwarded(patch(1, user))
		if reply := decode(t, s.oneReply(s.channel())); reply["error"] != nil {
			t.Errorf("the reply is %v", reply)
		}
		if n := valueOf(s.session.metrics.Requests.WithLabelValues("patch", metrics.WayForwarded, metrics.OutcomeOK)); n != 1 {
			t.Errorf("%v requests came by this way", n)
		}
	})

	for operation, request := range map[string]func(uint64, int64) func(*testSession){
		"read": func(tag uint64, id int64) func(*testSession) {
			return func(s *testSession) { s.channel().deliveries <- direct(get(tag, id), "1") }
		},
		"write": func(tag uint64, id int64) func(*testSession) {
			return func(s *testSession) { s.channel().deliveries <- direct(patch(tag, id), "1") }
		},
	} {
		bubble(t, "a_misrouted_"+operation+"_is_forwarded", &fakeStore{}, func(t *testing.T, s *testSession) {
			s.serve(1)
			request(1, userOf(3, 0))(s)
			s.oneForward(PartitionQueue(3))
			if len(s.channel().sent()) > 0 {
				t.Error("it was replied to here")
			}
		})
	}

	bubble(t, "misrouted_requests_are_counted", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.serve(1)
		s.channel().deliveries <- direct(get(1, user), "no number")
		key := userOf(1, 0)
		for partition.OfKey(itoa(key), testPartitions) != 1 {
			key++
		}
		s.channel().deliveries <- direct(get(2, user), itoa(key))
		synctest.Wait()
		misrouted := 0.0
		if partition.OfKey("no number", testPartitions) != 1 {
			misrouted = 1
		}
		if n := valueOf(s.session.metrics.Misrouted); n != misrouted {
			t.Errorf("%v requests count as misrouted, want %v", n, misrouted)
		}
	})

	bubble(t, "requests_that_the_exchange_had_no_queue_for_are_misrouted", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startShared()
		s.shared.deliveries <- direct(patch(1, user), itoa(user))
		s.shared.deliveries <- patch(2, user)
		synctest.Wait()
		if n := valueOf(s.session.metrics.Misrouted); n != 1 || len(s.forwarding.sent()) != 2 {
			t.Errorf("%v requests count as misrouted, %d were forwarded", n, len(s.forwarding.sent()))
		}
	})

	bubble(t, "probes_are_dropped", &fakeStore{find: func(*actor.Lookup) (*actor.User, error) { panic("a probe is carried out") }}, func(t *testing.T, s *testSession) {
		s.startShared()
		s.serve(1)
		probe := func(tag uint64, partition int) amqp.Delivery {
			user := userOf(partition, 0)
			d := direct(get(tag, user), itoa(user))
			d.ReplyTo, d.Headers = "", amqp.Table{"ident-probe": true}
			return d
		}
		s.channel().deliveries <- probe(1, 1)
		s.channel().deliveries <- probe(2, 2)
		s.shared.deliveries <- probe(1, 2)
		time.Sleep(time.Second)
		if n := valueOf(s.session.metrics.Misrouted); n != 2 || len(s.forwarding.sent()) > 0 {
			t.Errorf("%v requests count as misrouted, %d were forwarded", n, len(s.forwarding.sent()))
		}
		if own, shared := s.channel().acks(), s.shared.acks(); !slices.Contains(own, 2) || !slices.Contains(shared, 1) || s.inFlight() != [2]float64{} {
			t.Errorf("%v and %v were acknowledged", own, shared)
		}
		spared := get(3, userOf(1, 0)) // a request with a reply queue is no probe
		spared.Headers = amqp.Table{"ident-probe": true}
		s.session.o.Store.(*fakeStore).find = nil
		s.shared.deliveries <- spared
		synctest.Wait()
		if len(s.shared.sent()) != 1 {
			t.Error("a request with the header of a probe got no reply")
		}
	})

	bubble(t, "requests_are_left_when_the_lease_is_lost", &fakeStore{
		commit: func(partition.Lease, []*actor.Write) ([]actor.Outcome, error) { return nil, actor.ErrFenced },
	}, func(t *testing.T, s *testSession) {
		s.serve(1)
		s.channel().deliveries <- forwarded(patch(1, user))
		synctest.Wait()
		if sent, acked := s.channel().sent(), s.channel().acks(); len(sent)+len(acked) > 0 {
			t.Errorf("%d replies were sent, %d requests acknowledged", len(sent), len(acked))
		}
		if posted := s.posted(); !slices.Contains(posted, ownership.Event(ownership.LeaseLost{Partition: 1, Epoch: 1})) {
			t.Errorf("the core got %v", posted)
		}
		if n := metrics.Count(s.session.metrics.Fenced); n != 1 {
			t.Errorf("%d leases count as fenced", n)
		}
	})

	bubble(t, "shared_requests_move_on_when_the_lease_is_lost", &fakeStore{
		commit: func(partition.Lease, []*actor.Write) ([]actor.Outcome, error) { return nil, actor.ErrFenced },
	}, func(t *testing.T, s *testSession) {
		s.startShared()
		s.serve(1)
		s.shared.deliveries <- patch(1, user)
		s.oneForward(PartitionQueue(1))
	})
}

// TestCopyRequest: a request in a queue of the old generation goes to the queue of its user in the new
// one, as the caller has sent it, but without headers that would mean something there.
func TestCopyRequest(t *testing.T) {
	o := &Options{Secret: [][]byte{{1}}, Limits: testLimits}
	to := partition.Generation{First: 8, Partitions: 5}
	sealer := seal.Sealer(o.Secret)
	body := encode(map[string]any{"user_id": 7, "ops": []any{}})
	direct := amqp.Delivery{Exchange: topology.DirectExchange, RoutingKey: "7", Type: "rpc.user.patch", Body: body, ReplyTo: "r", CorrelationId: "c", UserId: "guest", Expiration: "5000",
		Headers: amqp.Table{"CC": []any{"elsewhere"}, "BCC": []any{"elsewhere"}, receivedHeader: int64(1), callerHeader: []byte("x"), "traceparent": "p", "other": "x"}}
	check := func(t *testing.T, d amqp.Delivery, queue string) amqp.Publishing {
		t.Helper()
		got, m, ok := copyRequest(o, &d, time.Now(), to)
		if !ok || got != queue || m.Type != "rpc.user.patch" || m.DeliveryMode != amqp.Persistent {
			t.Fatalf("%v: %s %+v, want the queue %s", ok, got, m, queue)
		}
		return m
	}
	own := PartitionQueue(8 + partition.Of(7, 5))
	t.Run("direct", func(t *testing.T) {
		m := check(t, direct, own)
		if len(m.Headers) != 2 || m.Headers["traceparent"] != "p" || m.Headers[receivedHeader] == int64(1) || m.UserId != "" || m.ReplyTo != "r" || m.Expiration == "" {
			t.Errorf("%+v", m)
		}
	})
	t.Run("login", func(t *testing.T) {
		d := direct
		d.Headers = nil
		m := check(t, d, own)
		sealed, _ := m.Headers[callerHeader].([]byte)
		if login, ok := sealer.OpenCaller(sealed, sealedRequest(&d, "r")); !ok || login != "guest" {
			t.Errorf("the caller is %q, %v", login, ok)
		}
	})
	t.Run("without_an_id", func(t *testing.T) {
		d := direct
		d.ReplyTo, d.CorrelationId = "", ""
		sealed, _ := check(t, d, own).Headers[requestIDHeader].([]byte)
		if _, ok := sealer.OpenRequestID(sealed, body); !ok {
			t.Error("it gets no id")
		}
	})
	t.Run("forwarded", func(t *testing.T) {
		d := direct
		d.Exchange, d.RoutingKey = "", PartitionQueue(3)
		d.Headers = amqp.Table{userIDHeader: sealer.UserID(9, body), receivedHeader: int64(5)}
		if m := check(t, d, PartitionQueue(8+partition.Of(9, 5))); m.Headers[receivedHeader] != int64(5) || m.Headers[userIDHeader] == nil {
			t.Errorf("%+v", m.Headers)
		}
	})
	t.Run("no_user", func(t *testing.T) {
		d := direct
		d.Exchange, d.RoutingKey, d.Body = "", PartitionQueue(3), []byte{0xc1}
		check(t, d, RequestQueue)
	})
	t.Run("probe", func(t *testing.T) {
		p := topology.NewProbe()
		if _, _, ok := copyRequest(o, &amqp.Delivery{Headers: p.Headers, Type: p.Type, Body: p.Body}, time.Now(), to); ok {
			t.Error("it is moved")
		}
	})
}

// TestTurns has one caller send more requests than may be under way, none of which is completed.
func TestTurns(t *testing.T) {
	const flooded, other = 1, 2 // users
	// flood returns the limit, after three requests more than that were sent. They are completed when
	// release is closed.
	flood := func(s *testSession, d func(tag uint64) amqp.Delivery) (limit uint64, release chan struct{}) {
		release = make(chan struct{})
		s.store.find = func(l *actor.Lookup) (*actor.User, error) {
			if id, _ := l.ByIDAlone(); id == flooded {
				<-release
			}
			return &actor.User{ID: other, Name: "Ada"}, nil
		}
		s.session.blocked.consuming.Store(true) // so that the consumer is not replaced
		s.startShared()
		limit = uint64(s.session.o.Prefetch)
		for tag := range limit + 3 {
			s.shared.deliveries <- d(tag + 1)
		}
		synctest.Wait()
		if n := s.session.turns.Waiting(); n != 3 {
			s.t.Errorf("%d requests wait, want 3", n)
		}
		return limit, release
	}
	usual := func(tag uint64) amqp.Delivery { return get(tag, flooded) }
	one, two := "one", "two"
	for groupOf(one) == groupOf(two) { // as happens once in a while
		two += "'"
	}

	for name, from := range map[string]func(d *amqp.Delivery, name string){
		"login":       func(d *amqp.Delivery, name string) { d.UserId, d.AppId = name, "same" },
		"app_id":      func(d *amqp.Delivery, name string) { d.AppId = name },
		"reply_queue": func(d *amqp.Delivery, name string) { d.ReplyTo = name },
	} {
		bubble(t, "another_"+name+"_does_not_wait_for_them", new(fakeStore), func(t *testing.T, s *testSession) {
			limit, release := flood(s, func(tag uint64) amqp.Delivery {
				d := get(tag, flooded)
				from(&d, one)
				return d
			})
			defer close(release)
			for n := range uint64(10) {
				d := get(limit+4+n, other)
				from(&d, two)
				s.shared.deliveries <- d
				synctest.Wait()
				if replies := uint64(len(s.shared.sent())); replies != n+1 {
					t.Fatalf("%d of %d requests of the other caller have got a reply", replies, n+1)
				}
			}
		})
	}

	// What the broker has not delivered is in one order.
	bubble(t, "the_instance_takes_room_for_many_callers_before_one_waits", new(fakeStore), func(t *testing.T, s *testSession) {
		release := make(chan struct{})
		defer close(release)
		s.store.find = func(*actor.Lookup) (*actor.User, error) {
			<-release
			return nil, nil
		}
		s.startShared()
		usual := s.session.o.Prefetch
		for tag := range uint64(usual * 3 / 4) {
			d := get(tag+1, flooded)
			d.UserId = fmt.Sprint("login ", tag%5)
			s.shared.deliveries <- d
		}
		synctest.Wait()
		if n := s.session.turns.Waiting(); n != 0 {
			t.Errorf("%d requests wait", n)
		}
		if _, room := s.session.prefer.Consumer(); room != 8*usual {
			t.Errorf("the instance has room for %d requests, want %d", room, 8*usual)
		}
	})

	bubble(t, "writes_of_others_are_committed_at_once_while_a_caller_floods", new(fakeStore), func(t *testing.T, s *testSession) {
		var atOnce []bool
		s.store.commit = func(_ partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
			atOnce = append(atOnce, writes[0].AtOnce) // writes of one user, one after another
			return []actor.Outcome{{UserID: other, Applied: true}}, nil
		}
		s.store.find = func(l *actor.Lookup) (*actor.User, error) {
			time.Sleep(10 * time.Millisecond)
			return &actor.User{ID: flooded, Name: "Ada"}, nil
		}
		s.serve(partition.Of(other, s.session.o.Partitions))
		s.startShared()
		s.session.turns.SetRoom(8 * s.session.o.Prefetch)
		tag := uint64(0)
		send := func(d amqp.Delivery, login string) {
			tag++
			d.DeliveryTag, d.UserId = tag, login
			s.shared.deliveries <- d
			synctest.Wait()
		}
		direct := patch(0, other)
		direct.Type, direct.Exchange, direct.RoutingKey = direct.RoutingKey, topology.DirectExchange, fmt.Sprint(other)
		ask := func() []bool {
			atOnce = nil
			send(patch(0, other), "caller")
			send(direct, "another")
			send(patch(0, other), "flood")
			time.Sleep(time.Second)
			synctest.Wait()
			return atOnce
		}
		if got := ask(); !slices.Equal(got, []bool{false, false, false}) {
			t.Errorf("before, at once or not: %v", got)
		}
		for range 60 {
			for int(tag)-len(s.shared.sent()) < s.session.o.Prefetch/2 {
				send(get(0, flooded), "flood")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := ask(); !slices.Equal(got, []bool{true, true, false}) {
			t.Errorf("while a caller floods, at once or not: %v", got)
		}
	})

	bubble(t, "when_the_instance_stops_those_not_begun_are_put_back", new(fakeStore), func(t *testing.T, s *testSession) {
		limit, release := flood(s, usual)
		drained := make(chan struct{})
		go func() { defer close(drained); s.session.drainShared() }()
		synctest.Wait()
		if got, want := s.shared.nacks(), []uint64{limit + 1, limit + 2, limit + 3}; !slices.Equal(got, want) {
			t.Errorf("%v were put back, want %v", got, want)
		}
		close(release)
		<-drained
		if n := len(s.shared.sent()); uint64(n) != limit {
			t.Errorf("%d requests have got a reply, want %d", n, limit)
		}
	})

	bubble(t, "when_the_session_is_lost_none_is_left_in_flight", new(fakeStore), func(t *testing.T, s *testSession) {
		_, release := flood(s, usual)
		s.session.fail(errDown)
		putBackAll(s.session.turns.Close())
		close(release)
		synctest.Wait()
		if got := s.inFlight(); got != [2]float64{} {
			t.Errorf("in flight are %v", got)
		}
		if n := len(s.shared.sent()) + len(s.shared.nacks()); n > 0 {
			t.Errorf("%d replies or rejections were sent", n)
		}
	})

	bubble(t, "the_next_one_begins_when_one_is_complete", new(fakeStore), func(t *testing.T, s *testSession) {
		limit, release := flood(s, usual)
		close(release)
		synctest.Wait()
		if n := len(s.shared.sent()); uint64(n) != limit+3 {
			t.Errorf("%d requests have got a reply, want %d", n, limit+3)
		}
	})
}
