package membership_test

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
)

func TestSend(t *testing.T) {
	t.Run("one_member_in_order", testSendOneMemberInOrder)
	t.Run("broadcast_whole_and_in_order", testSendBroadcastWholeAndInOrder)
	t.Run("never_waits_for_broker", testSendNeverWaitsForBroker)
	t.Run("never_waits_for_reader", testSendNeverWaitsForReader)
	t.Run("a_silent_queue_delays_no_other_member", testSendSilentQueue)
}

func testSendOneMemberInOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b, c := s.join(member("a", 1, 1), nil), s.join(member("b", 2, 1), nil), s.join(member("c", 3, 1), nil)
	a.Send(member("b", 2, 0), message(a.self, 0)) // gone; the message is dropped
	a.Broadcast(message(a.self, 1))
	a.Send(b.self, message(a.self, 2))
	a.Broadcast(message(a.self, 3))
	a.flush()
	for _, want := range []struct {
		by   *peer
		seqs []int64
	}{{b, []int64{1, 2, 3}}, {c, []int64{1, 3}}} {
		for _, seq := range want.seqs {
			if got := want.by.next().(ownership.MessageReceived).Message; !reflect.DeepEqual(got, message(a.self, seq)) {
				t.Errorf("%v received %v, want number %d", want.by.self, got, seq)
			}
		}
	}
}

func testSendBroadcastWholeAndInOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.join(member("a", 1, 1), nil), s.join(member("b", 2, 1), nil)
	const n = 2000
	var broadcasting sync.WaitGroup
	for _, p := range []*peer{a, b} {
		broadcasting.Go(func() {
			for seq := range int64(n) {
				p.Broadcast(message(p.self, seq))
				if seq%100 == 0 {
					p.flush() // otherwise the oldest may be dropped
				}
			}
			p.flush()
		})
	}
	broadcasting.Wait()
	for _, p := range []*peer{a, b} {
		received := make(map[ownership.Member]int64)
		for range 2 * n {
			got := p.next().(ownership.MessageReceived).Message
			if want := message(got.From, received[got.From]); !reflect.DeepEqual(got, want) {
				t.Fatalf("%v received %v, want %v", p.self, got, want)
			}
			received[got.From]++
		}
	}
}

func TestProbe(t *testing.T) {
	t.Run("lost_connection", testProbeLostConnection)
	t.Run("member_left", testProbeMemberLeft)
}

func testProbeLostConnection(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.join(member("a", 1, 1), nil), s.join(member("b", 2, 1), nil)
	for range 10 {
		a.Probe(b.self)
		a.Probe(a.self)
		a.flush()
	}
	b.link.cut()
	b.awaitLoss()
	a.probeUntilGone(b.self)   // the broker may not have noticed yet
	a.Probe(member("b", 3, 1)) // never existed
	if e := a.next(); e != (ownership.MemberGone{Member: member("b", 3, 1)}) {
		t.Errorf("%v", e)
	}
	if len(a.events) > 0 || len(b.events) > 0 {
		t.Errorf("unexpected event: %v", a.next())
	}
}

func testProbeMemberLeft(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.join(member("a", 1, 1), nil), s.join(member("b", 2, 1), nil)
	b.Close()
	a.probeUntilGone(b.self) // RabbitMQ 4.3 keeps the queue for some milliseconds
	if b.link.IsClosed() {
		t.Error("Close has closed the connection")
	}
}

// probeUntilGone probes a member until it is found to be gone.
func (p *peer) probeUntilGone(gone ownership.Member) {
	p.t.Helper()
	for {
		p.Probe(gone)
		p.flush()
		select {
		case e := <-p.events:
			if e != (ownership.MemberGone{Member: gone}) {
				p.t.Fatalf("%v", e)
			}
			return
		default:
		}
	}
}

func testSendNeverWaitsForBroker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.join(member("a", 1, 1), nil), s.join(member("b", 2, 1), nil)
	resume := a.link.socket.stop()
	const n = 3000
	for seq := range int64(n) { // in this goroutine: if a call blocked, resume would never be called
		a.Broadcast(message(a.self, seq))
		a.Probe(b.self)
		a.Probe(member("unknown", seq, 0))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("flushed: %v", err)
	}
	resume()
	a.flush()
	if lines := a.logged.FilterMessageSnippet("not sent").Len(); lines != 1 {
		t.Errorf("%d log lines say that messages were not sent", lines)
	}
	// The newest messages have arrived, in order.
	last, received := int64(-1), 0
	for last < n-1 {
		msg := b.next().(ownership.MessageReceived).Message
		if msg.Seq <= last {
			t.Fatalf("message %d was received after %d", msg.Seq, last)
		}
		last = msg.Seq
		received++
	}
	if received < 1000 || received >= n {
		t.Errorf("%d of %d messages were received", received, n)
	}
}

func testSendNeverWaitsForReader(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	received := make(chan int64, 2000)
	reads := make(chan struct{})
	a := s.join(member("a", 1, 1), nil)
	s.join(member("b", 2, 1), func(o *membership.Options) {
		o.OnEvent = func(e ownership.Event) {
			<-reads
			received <- e.(ownership.MessageReceived).Message.Seq
		}
	})
	const n = 1000
	for seq := range int64(n) {
		a.Broadcast(message(a.self, seq))
		a.Probe(member("b", 2, 1))
		if seq%100 == 0 {
			a.flush()
		}
	}
	a.flush()
	close(reads)
	for seq := range int64(n) {
		if got := receive(t, received); got != seq {
			t.Fatalf("received message %d, want %d", got, seq)
		}
	}
}

// One member's queue takes nothing in, so no broadcast is confirmed, and the probes of
// that member are not.
func testSendSilentQueue(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b, c := s.join(member("a", 1, 1), nil), s.join(member("b", 2, 1), nil), s.join(member("c", 3, 1), nil)
	s.vhost.SuspendQueue(t, membership.QueueOf(c.self))
	const n = 700 // more than may be unconfirmed, and than RabbitMQ lets be sent to such a queue
	a.Probe(c.self)
	for seq := range int64(n) {
		a.Broadcast(message(a.self, seq))
	}
	a.Send(b.self, message(a.self, n))
	a.Probe(member("gone", 4, 1))
	a.flush()
	for seq := range int64(n + 1) {
		if got := b.next().(ownership.MessageReceived).Message; got.Seq != seq {
			t.Fatalf("received message %d, want %d", got.Seq, seq)
		}
	}
	for {
		if e, ok := a.next().(ownership.MemberGone); ok {
			if e.Member != member("gone", 4, 1) {
				t.Errorf("%v", e)
			}
			break
		}
	}
	a.Probe(c.self)
	a.flush()
}
