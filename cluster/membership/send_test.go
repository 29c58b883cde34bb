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
}

func testSendOneMemberInOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b, c := s.join(member("a", 1, 1), nil), s.join(member("b", 2, 1), nil), s.join(member("c", 3, 1), nil)
	a.Send(member("b", 2, 0), message(a.who, 0)) // gone; the message is dropped
	a.Broadcast(message(a.who, 1))
	a.Send(b.who, message(a.who, 2))
	a.Broadcast(message(a.who, 3))
	a.flush()
	for _, heard := range []struct {
		by   *peer
		seqs []int64
	}{{b, []int64{1, 2, 3}}, {c, []int64{1, 3}}} {
		for _, seq := range heard.seqs {
			if got := heard.by.next().(ownership.MessageReceived).Message; !reflect.DeepEqual(got, message(a.who, seq)) {
				t.Errorf("%v heard %v, not %d", heard.by.who, got, seq)
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
				p.Broadcast(message(p.who, seq))
				if seq%100 == 0 {
					p.flush() // otherwise the oldest may be dropped
				}
			}
			p.flush()
		})
	}
	broadcasting.Wait()
	for _, p := range []*peer{a, b} {
		heard := make(map[ownership.Member]int64)
		for range 2 * n {
			got := p.next().(ownership.MessageReceived).Message
			if want := message(got.From, heard[got.From]); !reflect.DeepEqual(got, want) {
				t.Fatalf("%v heard %v, not %v", p.who, got, want)
			}
			heard[got.From]++
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
		a.Probe(b.who)
		a.Probe(a.who)
		a.flush()
	}
	b.link.cut()
	b.awaitLoss()
	for found := false; !found; {
		a.Probe(b.who) // the broker may not have noticed yet
		a.flush()
		select {
		case e := <-a.events:
			if e != (ownership.MemberGone{Member: b.who}) {
				t.Fatalf("%v", e)
			}
			found = true
		default:
		}
	}
	a.Probe(member("b", 3, 1)) // never existed
	if e := a.next(); e != (ownership.MemberGone{Member: member("b", 3, 1)}) {
		t.Errorf("%v", e)
	}
	if len(a.events) > 0 || len(b.events) > 0 {
		t.Errorf("more has happened: %v", a.next())
	}
}

func testProbeMemberLeft(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.join(member("a", 1, 1), nil), s.join(member("b", 2, 1), nil)
	b.Close()
	a.Probe(b.who)
	if e := a.next(); e != (ownership.MemberGone{Member: b.who}) {
		t.Errorf("%v", e)
	}
	if b.link.IsClosed() {
		t.Error("its connection is closed")
	}
}

func testSendNeverWaitsForBroker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.join(member("a", 1, 1), nil), s.join(member("b", 2, 1), nil)
	resume := a.link.socket.stop()
	const n = 3000
	for seq := range int64(n) { // in this goroutine: if a call blocked, resume would never be called
		a.Broadcast(message(a.who, seq))
		a.Probe(b.who)
		a.Probe(member("nobody", seq, 0))
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
	last, heard := int64(-1), 0
	for last < n-1 {
		msg := b.next().(ownership.MessageReceived).Message
		if msg.Seq <= last {
			t.Fatalf("%d came after %d", msg.Seq, last)
		}
		last = msg.Seq
		heard++
	}
	if heard < 1000 || heard >= n {
		t.Errorf("%d of %d have come", heard, n)
	}
}

func testSendNeverWaitsForReader(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	heard := make(chan int64, 2000)
	reads := make(chan struct{})
	a := s.join(member("a", 1, 1), nil)
	s.join(member("b", 2, 1), func(o *membership.Options) {
		o.OnEvent = func(e ownership.Event) {
			<-reads
			heard <- e.(ownership.MessageReceived).Message.Seq
		}
	})
	const n = 1000
	for seq := range int64(n) {
		a.Broadcast(message(a.who, seq))
		a.Probe(member("b", 2, 1))
		if seq%100 == 0 {
			a.flush()
		}
	}
	a.flush()
	close(reads)
	for seq := range int64(n) {
		if got := receive(t, heard); got != seq {
			t.Fatalf("%d came, not %d", got, seq)
		}
	}
}
