package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/metrics"
)

// TestLane adds a forward while another one is about to follow a confirmed one.
func TestLane(t *testing.T) {
	l := &lane{unconfirmed: make(map[*forward]struct{}), since: time.Now()}
	var all []*forward
	add := func() (now bool) {
		t.Helper()
		x := new(forward)
		all = append(all, x)
		now, err := l.add(x)
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	for range maxUnconfirmed {
		if !add() {
			t.Fatal("a forward waits for nothing")
		}
	}
	if add() || !l.remove(all[0]) || add() {
		t.Error("a forward overtakes one that waits")
	}
	if first := l.take(); first != all[maxUnconfirmed] || l.take() != nil {
		t.Error("the first one that waits does not follow, or too many are unconfirmed")
	}
	for _, x := range all[1 : maxUnconfirmed+1] {
		l.remove(x)
	}
	if add() || l.take() != all[maxUnconfirmed+1] || l.take() != all[maxUnconfirmed+2] {
		t.Error("a forward overtakes one that waits when nothing is unconfirmed")
	}
}

func TestForwarder(t *testing.T) {
	user := userOf(2, 0)

	bubble(t, "sends_what_the_owner_needs", &fakeStore{}, func(t *testing.T, s *testSession) {
		d := patch(1, user)
		d.Expiration = "5000"
		d.Headers = amqp.Table{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "other": "x"}
		r, _ := s.take(RequestQueue, d)
		if err := s.session.forwarder.send(r, 2, 0, 77); err != nil {
			t.Fatal(err)
		}
		m := s.oneForward(PartitionQueue(2)).message
		if m.DeliveryMode != amqp.Persistent || m.Expiration != "5000" || m.CorrelationId != "correlation" || m.ContentType != "application/msgpack" {
			t.Errorf("forwarded was %+v", m)
		}
		want := amqp.Table{"traceparent": d.Headers["traceparent"], spillHeader: int64(77), "ident-hop": int64(1)}
		if len(m.Headers) != len(want) {
			t.Errorf("the headers are %v", m.Headers)
		}
		for key, value := range want {
			if m.Headers[key] != value {
				t.Errorf("the header %s is %v", key, m.Headers[key])
			}
		}
		s.confirm(1, true)
	})

	bubble(t, "drops_a_reply_queue_that_costs_the_channel", &fakeStore{}, func(t *testing.T, s *testSession) {
		d := patch(1, user)
		d.ReplyTo = "amq.rabbitmq.reply-to.garbage"
		r, _ := s.take(RequestQueue, d)
		r.forward(2, 0)
		if m := s.oneForward(PartitionQueue(2)).message; m.ReplyTo != "" {
			t.Errorf("the reply queue is %q", m.ReplyTo)
		}
		s.confirm(1, true)
	})

	for name, decide := range map[string]func(*testSession){
		"a_refused_request_does_not_follow_later_ones": func(s *testSession) { s.confirm(1, false) },
		"a_returned_request_does_not_follow_later_ones": func(s *testSession) {
			s.forwarding.channel(1).returns <- amqp.Return{Headers: s.forwarding.sent()[0].message.Headers}
			s.forwarding.channel(1).returns <- amqp.Return{} // of nobody
			s.confirm(1, true)
		},
	} {
		bubble(t, name, &fakeStore{}, func(t *testing.T, s *testSession) {
			r, c := s.take(RequestQueue, patch(1, user))
			later, accepted := s.take(RequestQueue, patch(2, user))
			r.forward(2, 0)
			later.forward(2, 0)
			synctest.Wait()
			decide(s)
			s.confirm(2, true)
			time.Sleep(2 * requeueDelay)
			if code := errorCode(s.oneReply(c)); code != string(actor.InvocationFailed) || len(c.acks()) != 1 || len(c.nacks()) > 0 {
				t.Errorf("the code is %q; acknowledged were %v, given back %v", code, c.acks(), c.nacks())
			}
			if len(accepted.acks()) != 1 || len(accepted.sent()) > 0 {
				t.Errorf("of the later one, %d were acknowledged", len(accepted.acks()))
			}
			if n := valueOf(s.session.metrics.Requests.WithLabelValues("patch", metrics.WayShared, metrics.OutcomeForwarded)); n != 1 {
				t.Errorf("%v requests count as forwarded", n)
			}
		})
	}

	bubble(t, "confirmations_may_come_in_any_order", &fakeStore{}, func(t *testing.T, s *testSession) {
		first, c1 := s.take(RequestQueue, patch(1, user))
		second, c2 := s.take(RequestQueue, patch(1, user))
		first.forward(2, 0)
		second.forward(2, 0)
		synctest.Wait()
		s.confirm(2, true)
		time.Sleep(time.Second)
		if len(c1.acks()) != 0 || len(c2.acks()) != 1 {
			t.Errorf("acknowledged were %v and %v", c1.acks(), c2.acks())
		}
		s.confirm(1, true)
	})

	bubble(t, "unconfirmed_requests_are_left_when_the_channel_is_lost", &fakeStore{}, func(t *testing.T, s *testSession) {
		r, c := s.take(RequestQueue, patch(1, user))
		r.forward(2, 0)
		s.session.fail(errSessionClosed)
		t.Cleanup(func() { // once the channel is closed
			if len(c.acks())+len(c.nacks()) > 0 || s.inFlight() != [2]float64{} {
				t.Errorf("%v were acknowledged, and in flight are %v", c.acks(), s.inFlight())
			}
		})
	})

	bubble(t, "a_rejected_request_gets_an_error_reply", &fakeStore{}, func(t *testing.T, s *testSession) {
		rejected, c := s.take(RequestQueue, patch(1, user))
		rejected.forward(2, 0)
		synctest.Wait()
		s.forwarding.reject = 1 // when it is sent again
		s.forwarding.channel(1).closeFor(&amqp.Error{Code: amqp.PreconditionFailed})
		time.Sleep(2 * consume.AckDelay)
		if code := errorCode(s.oneReply(c)); code != string(actor.InvocationFailed) || len(c.acks()) != 1 {
			t.Errorf("the code is %q, acknowledged were %v", code, c.acks())
		}
		other, c := s.take(RequestQueue, patch(2, user))
		other.forward(2, 0)
		synctest.Wait()
		s.confirm(3, true)
		time.Sleep(2 * consume.AckDelay)
		if len(c.sent()) > 0 || len(c.acks()) != 1 {
			t.Errorf("the next request: %d replies, acknowledged were %v", len(c.sent()), c.acks())
		}
	})

	bubble(t, "nothing_is_sent_after_the_session", &fakeStore{}, func(t *testing.T, s *testSession) {
		r, _ := s.take(RequestQueue, patch(1, user))
		s.session.fail(errSessionClosed)
		r.forward(2, 0)
		if n := len(s.forwarding.sent()); n > 0 {
			t.Errorf("%d requests were forwarded", n)
		}
	})

	bubble(t, "an_overdue_partition_costs_its_own_requests", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startWatch()
		stuck, c := s.take(RequestQueue, patch(1, user))
		stuck.forward(2, 0)
		time.Sleep(confirmTimeout + 2*time.Second)
		if code := errorCode(s.oneReply(c)); code != string(actor.InvocationFailed) {
			t.Errorf("the code is %q", code)
		}
		time.Sleep(5 * measureEvery)
		if n := valueOf(s.session.metrics.Overloads.WithLabelValues(metrics.OverloadPartition)); n != 1 {
			t.Errorf("%v requests are counted as overdue", n)
		}
		next, c := s.take(RequestQueue, patch(2, user))
		next.forward(2, 0)
		if code := errorCode(s.oneReply(c)); code != string(actor.InvocationFailed) {
			t.Errorf("the code of the next one is %q", code)
		}
		other, healthy := s.take(RequestQueue, patch(3, userOf(3, 0)))
		other.forward(3, 0)
		synctest.Wait()
		s.confirm(2, true)
		time.Sleep(2 * consume.AckDelay)
		if len(healthy.acks()) != 1 {
			t.Error("another partition is overdue as well")
		}
		s.confirm(1, true) // late: the request has been replied to
		synctest.Wait()
		if len(c.sent()) > 1 {
			t.Error("a second reply was sent")
		}
		again, _ := s.take(RequestQueue, patch(4, user))
		again.forward(2, 0)
		synctest.Wait()
		if n := len(s.forwarding.sent()); n != 3 {
			t.Errorf("%d requests were forwarded after the broker has confirmed one", n)
		}
		s.confirm(3, true)
		time.Sleep(laneIdleFor + 2*measureEvery)
		if n := s.forwarding.opened(); n != 0 {
			t.Errorf("%d channels are open that are not needed", n)
		}
	})

	bubble(t, "a_channel_that_never_confirms_is_replaced", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startWatch()
		stuck, _ := s.take(RequestQueue, patch(1, user))
		stuck.forward(2, 0)
		time.Sleep(laneReopenAfter + 2*measureEvery)
		next, c := s.take(RequestQueue, patch(2, user))
		next.forward(2, 0)
		synctest.Wait()
		s.confirm(2, true)
		time.Sleep(2 * consume.AckDelay)
		if len(c.acks()) != 1 {
			t.Errorf("%d requests were acknowledged after that", len(c.acks()))
		}
	})

	bubble(t, "a_connection_that_the_broker_does_not_read_ends_the_session", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startWatch()
		r, _ := s.take(RequestQueue, patch(1, user))
		r.forward(2, 0)
		synctest.Wait()
		s.confirm(1, true)
		s.session.blocked.forwarding.Store(true)
		s.session.forwarder.lanes[2].sending.Set(time.Now()) // as while the socket takes nothing
		time.Sleep(2 * stuckAfter)
		if s.session.ctx.Err() != nil {
			t.Error("the session has ended although the broker says why it does not read")
		}
		s.session.blocked.forwarding.Store(false)
		time.Sleep(stuckAfter + 2*measureEvery)
		if !errors.Is(context.Cause(s.session.ctx), errForwardingStuck) {
			t.Errorf("the session goes on: %v", context.Cause(s.session.ctx))
		}
	})

	bubble(t, "no_more_than_the_broker_lets_be_unconfirmed", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startWatch()
		const more = 5
		var all []*fakeChannel
		for n := range uint64(maxUnconfirmed + more) {
			r, c := s.take(RequestQueue, patch(n+1, user))
			r.forward(2, 0)
			all = append(all, c)
		}
		synctest.Wait()
		s.confirm(1, true)
		synctest.Wait()
		sent := s.forwarding.sent()
		if len(sent) != maxUnconfirmed+1 {
			t.Errorf("%d requests were forwarded, and one is confirmed", len(sent))
		}
		time.Sleep(silentAfter + 2*measureEvery)
		for _, c := range all[maxUnconfirmed+1:] {
			if code := errorCode(s.oneReply(c)); code != string(actor.InvocationFailed) {
				t.Errorf("the code of one that waited is %q", code)
			}
		}
		late, c := s.take(RequestQueue, patch(100, user))
		late.forward(2, 0)
		if code := errorCode(s.oneReply(c)); code != string(actor.InvocationFailed) {
			t.Errorf("the code of a late one is %q", code)
		}
		for n := range maxUnconfirmed {
			s.confirm(n+2, true)
		}
		synctest.Wait()
		for _, c := range all[1 : maxUnconfirmed+1] {
			if len(c.sent()) > 0 {
				t.Error("a request that was forwarded got an error reply")
			}
		}
	})

	bubble(t, "no_partition_is_overdue_while_the_broker_blocks", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startWatch()
		s.session.blocked.forwarding.Store(true)
		r, c := s.take(RequestQueue, patch(1, user))
		r.forward(2, 0)
		time.Sleep(time.Minute)
		if len(c.sent()) > 0 {
			t.Error("an error reply was sent")
		}
		s.session.blocked.forwarding.Store(false)
		s.session.heartbeat.last.Set(time.Now().Add(time.Hour))
		time.Sleep(confirmTimeout + 2*time.Second)
		if len(c.sent()) != 1 {
			t.Error("no error reply was sent")
		}
	})
}

// startWatch starts to watch the session. Its heartbeats come back.
func (s *testSession) startWatch() {
	s.session.heartbeat.last.Set(time.Now().Add(time.Hour))
	s.session.running.Go(s.session.watch)
}

func TestHeartbeat(t *testing.T) {
	bubble(t, "lost_ends_the_session", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.session.heartbeat.last.Set(time.Now())
		s.session.running.Go(s.session.watch)
		limit := heartbeatsLost*s.session.o.Broker.Heartbeat + measureEvery
		time.Sleep(limit - measureEvery)
		if s.session.ctx.Err() != nil {
			t.Error("the session has ended early")
		}
		time.Sleep(2 * measureEvery)
		if s.session.ctx.Err() == nil {
			t.Error("the session goes on when other members have suspected this one")
		}
	})

	bubble(t, "is_not_expected_while_the_broker_blocks", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.session.heartbeat.last.Set(time.Now())
		s.session.blocked.consuming.Store(true)
		s.session.running.Go(s.session.watch)
		time.Sleep(time.Minute)
		if s.session.ctx.Err() != nil {
			t.Error("the session has ended")
		}
	})
}
