package rpc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/glotpod/ident/cluster/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fakeChannel passes each message to the test.
type fakeChannel struct {
	replies  chan amqp.Delivery
	returns  chan amqp.Return
	closes   chan *amqp.Error
	requests chan request
	stuck    chan struct{} // not nil: Publish blocks until it is closed

	consumeErr, publishErr error
}

type request struct {
	exchange, key string
	message       amqp.Publishing
}

func newFakeChannel() *fakeChannel {
	return &fakeChannel{replies: make(chan amqp.Delivery), requests: make(chan request, 10)}
}

func (c *fakeChannel) Consume(string, string, bool, bool, bool, bool, amqp.Table) (<-chan amqp.Delivery, error) {
	return c.replies, c.consumeErr
}

func (c *fakeChannel) NotifyReturn(returns chan amqp.Return) chan amqp.Return {
	c.returns = returns
	return returns
}

func (c *fakeChannel) NotifyClose(closes chan *amqp.Error) chan *amqp.Error {
	c.closes = closes
	return closes
}

func (c *fakeChannel) Publish(exchange, key string, mandatory, _ bool, m amqp.Publishing) error {
	if c.stuck != nil {
		<-c.stuck
	}
	if c.publishErr == nil {
		if !mandatory {
			return errors.New("a request without a queue would be lost")
		}
		c.requests <- request{exchange, key, m}
	}
	return c.publishErr
}

func (c *fakeChannel) Close() error { return nil }

// lose closes the channel as the library does.
func (c *fakeChannel) lose(cause *amqp.Error) {
	if cause != nil {
		c.closes <- cause
	}
	close(c.closes)
	close(c.returns)
	close(c.replies)
}

// withLink runs a test with a link in a synctest bubble.
func withLink(t *testing.T, name string, test func(*testing.T, *Link, *fakeChannel)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			channel := newFakeChannel()
			l, err := open(channel)
			if err != nil {
				t.Fatal(err)
			}
			test(t, l, channel)
			if len(l.waiting) > 0 {
				t.Errorf("%d requests are still waited for", len(l.waiting))
			}
			select {
			case <-l.Done():
			default:
				channel.lose(nil)
			}
			l.Wait()
		})
	})
}

func message(body string) *Message {
	return &Message{Exchange: Exchange, Key: Prefix + "get", Publishing: amqp.Publishing{Body: []byte(body)}}
}

func TestSend(t *testing.T) {
	withLink(t, "returns_the_reply", func(t *testing.T, l *Link, channel *fakeChannel) {
		go func() {
			r := <-channel.requests
			m := r.message
			if r.exchange != "amq.topic" || r.key != "rpc.user.get" || m.ReplyTo != "amq.rabbitmq.reply-to" || m.CorrelationId == "" || m.Expiration != "" {
				t.Errorf("the request is %+v", r)
			}
			channel.replies <- amqp.Delivery{CorrelationId: m.CorrelationId, Body: append([]byte("re: "), m.Body...)}
		}()
		reply, err := l.Send(t.Context(), message("request"))
		if err != nil || string(reply) != "re: request" {
			t.Errorf("%q, %v", reply, err)
		}
	})

	withLink(t, "gets_its_own_reply_in_any_order", func(t *testing.T, l *Link, channel *fakeChannel) {
		const n = 10
		go func() {
			var all []request
			for range n {
				all = append(all, <-channel.requests)
			}
			for _, wrong := range []string{"", "of nobody", "zzzzzzzzzzzzzzzzzzzz", "100"} {
				channel.replies <- amqp.Delivery{CorrelationId: wrong}
			}
			for i := range all {
				m := all[n-1-i].message
				channel.replies <- amqp.Delivery{CorrelationId: m.CorrelationId, Body: m.Body}
			}
		}()
		var sending sync.WaitGroup
		for i := range n {
			sending.Go(func() {
				body := fmt.Sprint(i)
				if reply, err := l.Send(t.Context(), message(body)); err != nil || string(reply) != body {
					t.Errorf("%q got %q, %v", body, reply, err)
				}
			})
		}
		sending.Wait()
	})

	withLink(t, "sends_nothing_when_its_time_is_over", func(t *testing.T, l *Link, channel *fakeChannel) {
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		expired, cancel := context.WithTimeout(t.Context(), -time.Second)
		defer cancel()
		late := message("")
		late.Deadline = time.Now()
		for range 100 { // whether the sender is ready before that is noticed differs
			for _, send := range []func() ([]byte, error){
				func() ([]byte, error) { return l.Send(cancelled, message("")) },
				func() ([]byte, error) { return l.Send(expired, message("")) },
				func() ([]byte, error) { return l.Send(t.Context(), late) },
			} {
				synctest.Wait() // the sender is ready
				if _, err := send(); !errors.Is(err, ErrNotSent) {
					t.Fatalf("the error is %v", err)
				}
			}
		}
		l.publishOne(&pending{message: late, deadline: late.Deadline}) // as if Send had not returned yet
		synctest.Wait()
		if n := len(channel.requests); n > 0 {
			t.Errorf("%d requests were sent", n)
		}
	})

	withLink(t, "that_no_queue_takes_is_an_error", func(t *testing.T, l *Link, channel *fakeChannel) {
		go func() { channel.returns <- amqp.Return{CorrelationId: (<-channel.requests).message.CorrelationId} }()
		if _, err := l.Send(t.Context(), message("")); !errors.Is(err, ErrUnroutable) {
			t.Errorf("the error is %v", err)
		}
	})

	withLink(t, "that_no_queue_takes_the_second_time_may_have_been_taken", func(t *testing.T, l *Link, channel *fakeChannel) {
		go func() {
			<-channel.requests
			channel.returns <- amqp.Return{CorrelationId: (<-channel.requests).message.CorrelationId}
		}()
		m := message("")
		m.ResendAfter = time.Second
		if _, err := l.Send(t.Context(), m); err == nil || errors.Is(err, ErrUnroutable) || errors.Is(err, ErrNotSent) {
			t.Errorf("the error is %v", err)
		}
	})

	withLink(t, "ends_with_its_context", func(t *testing.T, l *Link, channel *fakeChannel) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		if _, err := l.Send(ctx, message("")); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNotSent) {
			t.Errorf("the error is %v", err)
		}
		m := (<-channel.requests).message
		if m.Expiration != "1500" {
			t.Errorf("the expiration is %q", m.Expiration)
		}
		channel.replies <- amqp.Delivery{CorrelationId: m.CorrelationId} // too late
	})

	withLink(t, "is_sent_again_without_a_reply", func(t *testing.T, l *Link, channel *fakeChannel) {
		go func() {
			begin := time.Now()
			var ids []string
			for _, after := range []time.Duration{0, 1, 3, 7} {
				r := <-channel.requests
				ids = append(ids, r.message.CorrelationId)
				if at := time.Since(begin); at < after*time.Second/2 || at > after*time.Second {
					t.Errorf("attempt %d is sent after %v", len(ids), at)
				}
			}
			channel.replies <- amqp.Delivery{CorrelationId: ids[0], Body: []byte("late")}
			channel.replies <- amqp.Delivery{CorrelationId: ids[3], Body: []byte("second")}
		}()
		m := message("")
		m.ResendAfter = time.Second
		if reply, err := l.Send(t.Context(), m); err != nil || string(reply) != "late" {
			t.Errorf("%q, %v", reply, err)
		}
	})

	withLink(t, "returns_while_the_broker_takes_nothing", func(t *testing.T, l *Link, channel *fakeChannel) {
		channel.stuck = make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var sending sync.WaitGroup
		for range 3 * maxQueued {
			sending.Go(func() {
				if _, err := l.Send(ctx, message("")); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the error is %v", err)
				}
			})
		}
		sending.Wait()
		if _, err := l.Send(ctx, message("")); !errors.Is(err, ErrNotSent) {
			t.Errorf("the error is %v", err)
		}
		close(channel.stuck)
		synctest.Wait()
		if n := len(channel.requests); n > 1 {
			t.Errorf("%d requests are sent after their time", n)
		}
	})

	withLink(t, "that_cannot_be_encoded_is_an_error", func(t *testing.T, l *Link, channel *fakeChannel) {
		m := message("")
		m.Headers = amqp.Table{"h": struct{}{}}
		if _, err := l.Send(t.Context(), m); !errors.Is(err, ErrNotSent) || len(channel.requests) > 0 {
			t.Errorf("the error is %v", err)
		}
	})

	withLink(t, "failed_writes_leave_it_to_the_channel", func(t *testing.T, l *Link, channel *fakeChannel) {
		channel.publishErr = errors.New("broken pipe")
		cause := &amqp.Error{Code: amqp.FrameError}
		time.AfterFunc(time.Second, func() { channel.lose(cause) })
		_, err := l.Send(t.Context(), message(""))
		if lost, ok := errors.AsType[*LostError](err); !ok || lost.Cause != cause {
			t.Errorf("the error is %v", err)
		}
	})

	withLink(t, "ends_with_the_channel", func(t *testing.T, l *Link, channel *fakeChannel) {
		cause := &amqp.Error{Code: amqp.PreconditionFailed, Server: true}
		go func() {
			<-channel.requests
			channel.lose(cause)
		}()
		for range 2 { // the second one is not sent
			_, err := l.Send(t.Context(), message(""))
			if lost, ok := errors.AsType[*LostError](err); !ok || lost.Cause != cause || len(channel.requests) > 0 {
				t.Errorf("the error is %v", err)
			}
		}
		if lost := l.Wait(); lost.Cause != cause {
			t.Errorf("Wait returns %v", lost)
		}
	})
}

func TestOpen(t *testing.T) {
	if _, err := open(&fakeChannel{consumeErr: amqp.ErrClosed}); !errors.Is(err, amqp.ErrClosed) {
		t.Errorf("the error is %v", err)
	}
}

// The instances use the same names.
func TestNames(t *testing.T) {
	for _, c := range [][2]string{
		{Exchange, topology.RequestExchange}, {Exchange, topology.NotificationExchange}, {Prefix, topology.RequestPrefix},
	} {
		if c[0] != c[1] {
			t.Errorf("%s is %s in package topology", strconv.Quote(c[0]), c[1])
		}
	}
}
