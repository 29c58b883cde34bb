package membership_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// message returns a message in which every field is set.
func message(from ownership.Member, seq int64) ownership.Message {
	lease := func(p int) []partition.Lease {
		return []partition.Lease{{Partition: p, Epoch: seq + 7, Holder: member("other", 1<<62, 3)}}
	}
	return ownership.Message{
		From: from, Seq: seq, State: ownership.Draining,
		Parameters: ownership.Parameters{Partitions: 64, Table: 1, QueueType: "quorum"},
		Wants:      lease(0), Granted: lease(4), Released: lease(1), Taken: append(lease(2), lease(3)...),
		Gone: []ownership.Member{member("gone", 5, 6)},
	}
}

func TestLoss(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		lose func(*peer)
	}{
		{"its connection is cut", func(p *peer) { p.link.cut() }},
		{"its connection is closed", func(p *peer) { p.link.Close() }},
		{"its queue is deleted", func(p *peer) { // only the owner's connection can delete it
			channel, err := p.link.Channel()
			if err == nil {
				_, err = channel.QueueDelete(membership.QueueOf(p.self), false, false, false)
			}
			if err != nil {
				p.t.Error(err)
			}
		}},
		{"the exchange is deleted", func(p *peer) {
			channel, err := p.link.Channel()
			if err == nil {
				err = channel.ExchangeDelete(membership.Exchange, false, false)
			}
			if err != nil {
				p.t.Error(err)
			}
			p.Broadcast(message(p.self, 1))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newSite(t).join(member("a", 1, 1), nil)
			if p.Err() != nil {
				t.Errorf("lost: %v", p.Err())
			}
			c.lose(p)
			t.Log(p.awaitLoss())
			p.Broadcast(message(p.self, 1))
			p.Probe(p.self)
			if err := p.Flush(t.Context()); err == nil {
				t.Error("flushed over a lost membership")
			}
			p.Close()
		})
	}
}

func TestJoin(t *testing.T) {
	t.Run("once_per_incarnation", testJoinOncePerIncarnation)
	t.Run("context_ends", testJoinContextEnds)
}

func testJoinOncePerIncarnation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.join(member("a", 1, 1), nil)
	other := s.connect()
	_, err := membership.Join(t.Context(), other.Connection, membership.Options{Self: p.self, Log: zapTest(t)})
	if refusal, ok := errors.AsType[*amqp.Error](err); !ok || refusal.Code != amqp.ResourceLocked {
		t.Errorf("%v", err)
	}
	p.Broadcast(message(p.self, 1)) // the first one still works
	p.next()
}

func testJoinContextEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	l := s.connect()
	l.socket.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := membership.Join(ctx, l.Connection, membership.Options{Self: member("a", 1, 1), Log: zapTest(t)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if took := time.Since(begun); took > patience/3 { // the connection alone would fail later
		t.Errorf("it took %v", took)
	}
}

func TestClose(t *testing.T) {
	t.Run("waits_for_callbacks", testCloseWaitsForCallbacks)
	t.Run("concurrent_under_load", testCloseConcurrentUnderLoad)
}

func testCloseWaitsForCallbacks(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	session := int64(0)
	for what, cause := range map[string]func(*peer){
		"event: message received": func(p *peer) { p.Broadcast(message(p.self, 1)) },
		"event: member gone":      func(p *peer) { p.Probe(member("unknown", 1, 1)) },
		"Describe":                func(p *peer) { membership.AskStatus(soon(t), s.connect().Connection) },
	} {
		entered, leave := make(chan struct{}, 10), make(chan struct{})
		wait := func() {
			entered <- struct{}{}
			<-leave
		}
		session++ // the broker may delete a queue some time after it is closed
		p := s.join(member("a", 1, session), func(o *membership.Options) {
			o.OnEvent = func(ownership.Event) { wait() }
			o.Report = func() membership.Report { wait(); return membership.Report{} }
		})
		cause(p)
		receive(t, entered)
		closed := make(chan struct{})
		go func() {
			p.Close()
			close(closed)
		}()
		receive(t, p.Done())
		select {
		case <-closed:
			t.Errorf("closed while %s was under way", what)
		case <-time.After(200 * time.Millisecond): // enough for Close to return if it does not wait
		}
		close(leave)
		receive(t, closed)
	}
}

func testCloseConcurrentUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for session := range int64(10) {
		p := s.join(member("a", 1, session), func(o *membership.Options) { o.OnEvent = func(ownership.Event) {} })
		var busy sync.WaitGroup
		for i := range int64(8) {
			busy.Go(func() {
				for seq := range int64(100) {
					p.Broadcast(message(p.self, seq))
					p.Probe(member("unknown", seq, i))
				}
				p.Close()
			})
		}
		busy.Wait()
		channel, err := p.link.Channel() // the broker replies after it has handled everything before
		if err != nil {
			t.Fatalf("Close has closed the connection: %v", err)
		}
		channel.Close()
	}
}

func TestHostilePublisher(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.join(member("a", 1, 1), nil)
	channel := s.channel()
	publish := func(kind, body, replyTo, correlation string) {
		for _, to := range []struct{ exchange, key string }{{membership.Exchange, ""}, {"", membership.QueueOf(p.self)}} {
			err := channel.Publish(to.exchange, to.key, false, false, amqp.Publishing{
				Type: kind, Body: []byte(body), ReplyTo: replyTo, CorrelationId: correlation,
				Headers: amqp.Table{"nested": amqp.Table{"x": []byte{0}}},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	const from = `"from":{"name":"b","start":1,"session":1}`
	for _, kind := range []string{"", "heartbeat", "probe", "status", "drain", "undrain", "report", "taken", strings.Repeat("x", 255)} {
		for _, body := range []string{
			"", "\x00", "null", "[]", "{}", `{"v":2}`, `{"v":1}`, `{"v":1,"from":{}}`, `{"v":"1"}`, `{"v":1}trailing`,
			strings.Repeat("[", 1<<16), `{"v":1,` + from + `,"state":"absent"}`, `{"v":1,` + from + `,"state":"ready","wants":[{"partition":-1}]}`,
			`{"v":1,` + from + `,"state":"ready","gone":[{"name":"` + strings.Repeat("n", 64) + `"}]}`,
			`{"v":1,` + from + `,"state":"ready","parameters":{"partitions":9223372036854775807}}`,
			`{"v":1,"instance":"` + strings.Repeat("x", 2<<20) + `"}`,
		} {
			publish(kind, body, "amq.rabbitmq.reply-to.nonsense", "")
		}
	}
	for _, replyTo := range []string{"", "amq.rabbitmq.reply-to.nonsense", "glotpod.rpc/ident", "glotpod.ident.reply/\xff", "glotpod.ident.reply/" + strings.Repeat("x", 235)} {
		publish("status", `{"v":1}`, replyTo, "")
		publish("drain", `{"v":1,"instance":"a"}`, replyTo, "")
	}
	publish("status", `{"v":1}`, "glotpod.ident.reply/unknown", strings.Repeat("\xff", 255))
	publish("status", `{"v":1}`, "glotpod.ident.reply/unknown", "fine") // the reply has no receiver
	publish("drain", `{"v":1,"instance":"b"}`, "glotpod.ident.reply/unknown", "")

	publish("heartbeat", `{"v":2,`+from+`,"seq":6,"state":"ready"}`, "", "")

	publish("heartbeat", `{"v":1,`+from+`,"seq":7,"state":"ready","unknown":[1]}`, "", "")
	want := ownership.MessageReceived{Message: ownership.Message{From: member("b", 1, 1), Seq: 7, State: ownership.Ready}}
	for range 2 {
		if got := p.next(); !reflect.DeepEqual(got, ownership.Event(want)) {
			t.Fatalf("%v", got)
		}
	}
	p.Probe(member("b", 1, 1))
	if e := p.next(); e != (ownership.MemberGone{Member: member("b", 1, 1)}) {
		t.Errorf("%v", e)
	}
	if err := p.Err(); err != nil {
		t.Error(err)
	}
	if len(p.drains) > 0 {
		t.Error("the instance was drained")
	}
	if p.logged.Len() != 1 {
		t.Errorf("%d log lines", p.logged.Len())
	}
	for _, line := range p.logged.All() {
		t.Log(line.Message, line.ContextMap())
	}
}
