package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A fakeChannel passes each request to the test.
type fakeChannel struct {
	replies  chan amqp.Delivery
	returns  chan amqp.Return
	requests chan request

	consumeErr, publishErr error
}

type request struct {
	exchange, key string
	message       amqp.Publishing
}

func (c *fakeChannel) Consume(string, string, bool, bool, bool, bool, amqp.Table) (<-chan amqp.Delivery, error) {
	return c.replies, c.consumeErr
}

func (c *fakeChannel) NotifyReturn(returns chan amqp.Return) chan amqp.Return {
	c.returns = returns
	return returns
}

func (c *fakeChannel) PublishWithContext(_ context.Context, exchange, key string, mandatory, _ bool, m amqp.Publishing) error {
	if c.publishErr == nil {
		if !mandatory {
			return errors.New("a request without a queue would be lost")
		}
		c.requests <- request{exchange, key, m}
	}
	return c.publishErr
}

// withClient runs a test with a client in a synctest bubble.
func withClient(t *testing.T, name string, test func(*testing.T, *Client, *fakeChannel)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			channel := &fakeChannel{replies: make(chan amqp.Delivery), requests: make(chan request, 10)}
			c, err := newClient(channel)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				close(channel.returns)
				close(channel.replies)
			}()
			test(t, c, channel)
		})
	})
}

func TestCall(t *testing.T) {
	withClient(t, "sends_a_request_and_returns_the_reply", func(t *testing.T, c *Client, channel *fakeChannel) {
		go func() {
			r := <-channel.requests
			m := r.message
			if r.exchange != "amq.topic" || r.key != "rpc.user.get" || m.MessageId != "id" || m.ReplyTo != "amq.rabbitmq.reply-to" ||
				m.ContentType != "application/msgpack" || m.DeliveryMode != amqp.Persistent || m.CorrelationId == "" {
				t.Errorf("the request is %+v", r)
			}
			channel.replies <- amqp.Delivery{CorrelationId: m.CorrelationId, Body: append([]byte("re: "), m.Body...)}
		}()
		reply, err := c.Call(t.Context(), "get", "id", []byte("request"))
		if err != nil || string(reply) != "re: request" {
			t.Errorf("%q, %v", reply, err)
		}
	})

	withClient(t, "direct_goes_to_the_user", func(t *testing.T, c *Client, channel *fakeChannel) {
		go func() {
			r := <-channel.requests
			if r.exchange != "glotpod.ident" || r.key != "77" || r.message.Type != "rpc.user.get" || r.message.MessageId == "" {
				t.Errorf("the request is %+v", r)
			}
			channel.replies <- amqp.Delivery{CorrelationId: r.message.CorrelationId}
		}()
		if _, err := c.CallDirect(t.Context(), 77, "get", "", nil); err != nil {
			t.Error(err)
		}
	})

	withClient(t, "gets_its_own_reply_in_any_order", func(t *testing.T, c *Client, channel *fakeChannel) {
		const n = 10
		go func() {
			var all []request
			for range n {
				all = append(all, <-channel.requests)
			}
			channel.replies <- amqp.Delivery{CorrelationId: "of nobody"}
			for i := range all {
				m := all[n-1-i].message
				channel.replies <- amqp.Delivery{CorrelationId: m.CorrelationId, Body: m.Body}
			}
		}()
		var calls sync.WaitGroup
		for i := range n {
			calls.Go(func() {
				body := fmt.Sprint(i)
				if reply, err := c.Call(t.Context(), "get", "", []byte(body)); err != nil || string(reply) != body {
					t.Errorf("%q got %q, %v", body, reply, err)
				}
			})
		}
		calls.Wait()
	})

	withClient(t, "that_no_queue_takes_is_an_error", func(t *testing.T, c *Client, channel *fakeChannel) {
		go func() { channel.returns <- amqp.Return{CorrelationId: (<-channel.requests).message.CorrelationId} }()
		if _, err := c.Call(t.Context(), "get", "", nil); !errors.Is(err, ErrNoService) {
			t.Errorf("the error is %v", err)
		}
	})

	withClient(t, "ends_with_its_context", func(t *testing.T, c *Client, channel *fakeChannel) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Call(ctx, "get", "", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error is %v", err)
		}
		if len(c.waiting) > 0 {
			t.Error("the call is still waited for")
		}
		channel.replies <- amqp.Delivery{CorrelationId: (<-channel.requests).message.CorrelationId} // too late
	})

	withClient(t, "that_cannot_be_sent_is_an_error", func(t *testing.T, c *Client, channel *fakeChannel) {
		channel.publishErr = amqp.ErrClosed
		if _, err := c.Call(t.Context(), "get", "", nil); !errors.Is(err, amqp.ErrClosed) || len(c.waiting) > 0 {
			t.Errorf("the error is %v", err)
		}
	})

	t.Run("ends_with_the_channel", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			channel := &fakeChannel{replies: make(chan amqp.Delivery), requests: make(chan request, 10)}
			c, err := newClient(channel)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				<-channel.requests
				close(channel.returns)
				close(channel.replies)
			}()
			if _, err := c.Call(t.Context(), "get", "", nil); err == nil {
				t.Error("a waiting call succeeds")
			}
			if _, err := c.Call(t.Context(), "get", "", nil); err == nil || len(channel.requests) > 0 {
				t.Error("a later call is sent")
			}
		})
	})
}

func TestNewClient(t *testing.T) {
	if _, err := newClient(&fakeChannel{consumeErr: amqp.ErrClosed}); !errors.Is(err, amqp.ErrClosed) {
		t.Errorf("the error is %v", err)
	}
}
