package cluster

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/ownership"
)

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
		want := amqp.Table{"traceparent": d.Headers["traceparent"], spillHeader: int64(77), forwardHeader: int64(1)}
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

	bubble(t, "a_refused_request_is_delivered_again", &fakeStore{}, func(t *testing.T, s *testSession) {
		r, c := s.take(RequestQueue, patch(1, user))
		r.forward(2, 0)
		s.confirm(1, false)
		time.Sleep(2 * requeueDelay)
		if n := c.nacks(); !slices.Equal(n, []uint64{1}) || len(c.acks()) > 0 {
			t.Errorf("%v were given back, %v acknowledged", n, c.acks())
		}
	})

	bubble(t, "a_returned_request_is_delivered_again_though_confirmed", &fakeStore{}, func(t *testing.T, s *testSession) {
		r, c := s.take(RequestQueue, patch(1, user))
		other, _ := s.take(RequestQueue, patch(2, user))
		r.forward(2, 0)
		other.forward(2, 0)
		s.forwarding.returns <- amqp.Return{Headers: s.forwarding.sent()[0].message.Headers}
		s.forwarding.returns <- amqp.Return{} // of nobody
		s.confirm(1, true)
		s.confirm(2, true)
		s.confirm(3, true) // of nobody
		time.Sleep(2 * requeueDelay)
		if n := c.nacks(); !slices.Equal(n, []uint64{1}) || len(c.acks()) > 0 {
			t.Errorf("%v were given back, %v acknowledged", n, c.acks())
		}
		if n := valueOf(s.session.metrics.Requests.WithLabelValues("patch", metrics.WayShared, metrics.OutcomeForwarded)); n != 1 {
			t.Errorf("%v requests count as forwarded", n)
		}
	})

	bubble(t, "confirmations_may_come_in_any_order", &fakeStore{}, func(t *testing.T, s *testSession) {
		first, c1 := s.take(RequestQueue, patch(1, user))
		second, c2 := s.take(RequestQueue, patch(1, user))
		first.forward(2, 0)
		second.forward(2, 0)
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

	bubble(t, "a_failed_publish_leaves_the_request", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.forwarding.publishErr = amqp.ErrClosed
		r, _ := s.take(RequestQueue, patch(1, user))
		r.forward(2, 0)
		if n := valueOf(s.session.metrics.Requests.WithLabelValues("patch", metrics.WayShared, metrics.OutcomeLeft)); n != 1 || len(s.session.forwarder.pending) > 0 {
			t.Errorf("%v requests count as left, and %d are pending", n, len(s.session.forwarder.pending))
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
		next, c := s.take(RequestQueue, patch(2, user))
		next.forward(2, 0)
		if code := errorCode(s.oneReply(c)); code != string(actor.InvocationFailed) {
			t.Errorf("the code of the next one is %q", code)
		}
		other, c := s.take(RequestQueue, patch(3, userOf(3, 0)))
		other.forward(3, 0)
		if synctest.Wait(); len(c.sent()) > 0 || len(s.forwarding.sent()) != 2 {
			t.Error("another partition is overdue as well")
		}
		s.confirm(1, true) // late: the request has been replied to
		synctest.Wait()
		if len(c.sent()) > 0 {
			t.Error("a second reply was sent")
		}
		again, _ := s.take(RequestQueue, patch(4, user))
		again.forward(2, 0)
		if n := len(s.forwarding.sent()); n != 3 {
			t.Errorf("%d requests were forwarded after the broker has confirmed one", n)
		}
	})

	bubble(t, "no_partition_is_overdue_while_the_broker_blocks", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startWatch()
		s.session.blocked.publishing.Store(true)
		r, c := s.take(RequestQueue, patch(1, user))
		r.forward(2, 0)
		time.Sleep(time.Minute)
		if len(c.sent()) > 0 {
			t.Error("an error reply was sent")
		}
		s.session.blocked.publishing.Store(false)
		s.session.heartbeat.last.Store(time.Now().Add(time.Hour).UnixNano())
		time.Sleep(confirmTimeout + 2*time.Second)
		if len(c.sent()) != 1 {
			t.Error("no error reply was sent")
		}
	})

	t.Run("limits_are_by_partition", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := &forwarder{pending: make(map[uint64]*forward), byPartition: make([]unconfirmed, 2)}
			r := new(request)
			f.add(1, &forward{request: r})
			for range 20 { // the broker blocks the connection
				time.Sleep(time.Second)
				f.resetDeadlines()
			}
			if requests := f.overdue(); len(requests) > 0 || !f.add(2, &forward{request: r}) {
				t.Errorf("%d requests are overdue when the broker goes on", len(requests))
			}
			time.Sleep(confirmTimeout + time.Second)
			if requests := f.overdue(); len(requests) != 2 || f.add(3, &forward{request: r}) {
				t.Errorf("%d of 2 requests are overdue, and a third one may follow", len(requests))
			}
			if !f.add(4, &forward{request: r, partition: 1}) {
				t.Error("another partition is overdue as well")
			}
			f.remove(1)
			if requests := f.overdue(); len(requests) > 0 || !f.add(5, &forward{request: r}) {
				t.Errorf("%d requests are overdue although the broker has confirmed one", len(requests))
			}
		})
	})
}

// startWatch starts to watch the session. Its heartbeats come back.
func (s *testSession) startWatch() {
	s.session.heartbeat.last.Store(time.Now().Add(time.Hour).UnixNano())
	s.session.running.Go(s.session.watch)
}

func TestHeartbeat(t *testing.T) {
	bubble(t, "lost_ends_the_session", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.session.heartbeat.last.Store(time.Now().UnixNano())
		s.session.running.Go(s.session.watch)
		limit := ownership.SuspectAfter(s.session.o.Broker.Heartbeat)
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
		s.session.heartbeat.last.Store(time.Now().UnixNano())
		s.session.blocked.consuming.Store(true)
		s.session.running.Go(s.session.watch)
		time.Sleep(time.Minute)
		if s.session.ctx.Err() != nil {
			t.Error("the session has ended")
		}
	})
}
