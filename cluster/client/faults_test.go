package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cluster/client"
	"github.com/glotpod/ident/deploy/testservers"
)

// reply encodes a reply.
func reply(v any) []byte {
	b, err := msgp.AppendIntf(nil, v)
	if err != nil {
		panic(err)
	}
	return b
}

func userReply(id int64) []byte {
	return reply(map[string]any{"result": map[string]any{"id": id, "name": "Ada", "email": "a@b", "new": []any{map[string]any{}}}})
}

// userIDOf returns the argument user_id of a request.
func userIDOf(d *amqp.Delivery) int64 {
	args, _, _ := msgp.ReadMapStrIntfBytes(d.Body, nil)
	id, _ := args["user_id"].(int64)
	return id
}

// get gets a user and fails unless it comes.
func get(t *testing.T, c *client.Client, id int64) {
	t.Helper()
	if u, err := c.Get(t.Context(), client.Query{UserID: id}); err != nil || u.ID != id {
		t.Errorf("user %d: %+v, %v", id, u, err)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func second[T any](_ T, err error) error { return err }

type traceKey struct{}

func TestRequest(t *testing.T) {
	b := testservers.RabbitMQ(t)
	requests := make(chan amqp.Delivery, 10)
	script(t, b, func(s *scripted, d *amqp.Delivery) {
		requests <- *d
		s.send(d, userReply(1))
	})
	o := optionsFor(b)
	o.Trace = func(ctx context.Context) (string, string) { return fmt.Sprint(ctx.Value(traceKey{})), "state" }
	seen := make(chan client.Observation, 10)
	o.Observe = func(x client.Observation) { seen <- x }
	c := dial(t, o)

	t.Run("properties", func(t *testing.T) {
		ctx := context.WithValue(within(t, 10*time.Second), traceKey{}, "parent")
		if _, err := c.Get(client.WithMessageID(ctx, "id"), client.Query{UserID: 1}); err != nil {
			t.Fatal(err)
		}
		d := <-requests
		left, _ := strconv.Atoi(d.Expiration)
		if d.MessageId != "id" || d.AppId != "test" || d.UserId != b.User || d.DeliveryMode != amqp.Transient || left > 10_000 || left < 1000 ||
			d.Headers["traceparent"] != "parent" || d.Headers["tracestate"] != "state" || d.RoutingKey != "rpc.user.get" || d.Exchange != "amq.topic" {
			t.Errorf("the request is %+v", d)
		}
		get(t, c, 1) // without a deadline
		other := <-requests
		if left, _ := strconv.Atoi(other.Expiration); left > 30_000 || left < 15_000 || other.MessageId == "" || other.MessageId == d.MessageId {
			t.Errorf("the request is %+v", other)
		}
	})

	t.Run("writes_are_persistent", func(t *testing.T) {
		c.Delete(t.Context(), 1)
		if d := <-requests; d.DeliveryMode != amqp.Persistent {
			t.Errorf("the request is %+v", d)
		}
	})

	t.Run("observed", func(t *testing.T) {
		for len(seen) > 0 {
			<-seen
		}
		get(t, c, 1)
		if x := <-seen; x.Operation != "get" || x.Attempts != 1 || x.Err != nil || x.Duration <= 0 {
			t.Errorf("the observation is %+v", x)
		}
	})

	t.Run("impossible_arguments_are_not_sent", func(t *testing.T) {
		long := string(bytes.Repeat([]byte("x"), 256))
		for name, err := range map[string]error{
			"message_id":    c.Delete(client.WithMessageID(t.Context(), long), 1),
			"no_message_id": c.Delete(client.WithMessageID(t.Context(), ""), 1),
			"operation":     second(c.Do(t.Context(), client.Request{Operation: long})),
			"value":         c.Patch(t.Context(), 1, client.Add("/name", struct{}{})),
			"no_user":       second(c.Create(t.Context(), nil)),
		} {
			if refusal, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrBadRequest) || refusal.Retryable || errors.Is(err, client.ErrNotSent) {
				t.Errorf("%s: the error is %v", name, err)
			}
		}
		for len(requests) > 0 {
			<-requests
		}
		get(t, c, 1)
		if len(requests) != 1 {
			t.Errorf("%d requests are sent", len(requests))
		}
	})
}

func TestRetries(t *testing.T) {
	b := testservers.RabbitMQ(t)
	p := newProxy(t, b)
	var attempts atomic.Int64
	ids := make(chan string, 100)
	act := make(chan func(s *scripted, d *amqp.Delivery), 100)
	script(t, b, func(s *scripted, d *amqp.Delivery) {
		ids <- d.MessageId
		attempts.Add(1)
		select {
		case do := <-act:
			do(s, d)
		default:
			s.send(d, userReply(userIDOf(d)))
		}
	})
	o := optionsFor(b)
	o.Addresses = []string{"127.0.0.1:1", p.address} // one of two hosts is away
	c := dial(t, o)
	sameID := func(t *testing.T, n int) {
		t.Helper()
		first := <-ids
		for range n - 1 {
			if id := <-ids; id != first || id == "" {
				t.Errorf("an attempt has the id %q, the first one %q", id, first)
			}
		}
	}

	t.Run("after_a_lost_connection", func(t *testing.T) {
		act <- func(*scripted, *amqp.Delivery) { p.cut() } // no reply
		act <- func(*scripted, *amqp.Delivery) { p.cut() }
		get(t, c, 7)
		sameID(t, 3)
	})

	t.Run("after_a_failure_of_the_service", func(t *testing.T) {
		failed := reply(map[string]any{"error": "invocation_failed", "message": "m", "retryable": true, "retry_after_ms": 150})
		act <- func(s *scripted, d *amqp.Delivery) { s.send(d, failed) }
		begin := time.Now()
		get(t, c, 7)
		if took := time.Since(begin); took < 150*time.Millisecond {
			t.Errorf("the retry comes after %v", took)
		}
		sameID(t, 2)
	})

	t.Run("not_if_no_time_remains", func(t *testing.T) {
		act <- func(s *scripted, d *amqp.Delivery) {
			s.send(d, reply(map[string]any{"error": "invocation_failed", "retryable": true, "retry_after_ms": 60_000}))
		}
		_, err := c.Get(t.Context(), client.Query{UserID: 1})
		is(t, err, client.ErrInvocationFailed)
		if refusal, ok := errors.AsType[*client.Error](err); !ok || !refusal.Retryable || refusal.RetryAfter != time.Minute {
			t.Errorf("the error is %+v", refusal)
		}
		sameID(t, 1)
	})

	t.Run("not_if_that_is_no_use", func(t *testing.T) {
		act <- func(s *scripted, d *amqp.Delivery) {
			s.send(d, reply(map[string]any{"error": "invocation_failed", "retryable": false}))
		}
		_, err := c.Get(t.Context(), client.Query{UserID: 1})
		is(t, err, client.ErrInvocationFailed)
		sameID(t, 1)
	})

	t.Run("lost_reply", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		act <- func(*scripted, *amqp.Delivery) { cancel() }
		_, err := c.Get(ctx, client.Query{UserID: 1})
		is(t, err, client.ErrNoReply, context.Canceled)
		sameID(t, 1)
	})

	t.Run("unroutable_later", func(t *testing.T) {
		other := testservers.RabbitMQ(t)
		p := newProxy(t, other)
		o := optionsFor(other)
		o.Addresses = []string{p.address}
		c := dial(t, o)
		script(t, other, func(s *scripted, d *amqp.Delivery) {
			s.channel.QueueDelete("glotpod.rpc/ident", false, false, false)
			p.cut()
		})
		err := c.Delete(t.Context(), 1)
		is(t, err, client.ErrNoReply) // the first attempt may have been carried out
		if errors.Is(err, client.ErrNoService) {
			t.Errorf("the error is %v", err)
		}
	})

	t.Run("many_goroutines", func(t *testing.T) {
		var asking sync.WaitGroup
		var left atomic.Int64
		left.Store(2000)
		for g := range int64(64) {
			asking.Go(func() {
				for n := left.Add(-1); n >= 0; n = left.Add(-1) {
					if n == 1000 || n == 1500 {
						p.cut()
					}
					get(t, c, 1+g*10_000+n)
				}
			})
		}
		done := make(chan struct{})
		go func() { asking.Wait(); close(done) }()
		for {
			select {
			case <-ids:
				continue
			case <-done:
			}
			break
		}
	})
}

// The pages of get_many are limited in users and in bytes.
func TestGetMany(t *testing.T) {
	b := testservers.RabbitMQ(t)
	const perPage = 300
	asked := 0
	script(t, b, func(s *scripted, d *amqp.Delivery) {
		args, _, _ := msgp.ReadMapStrIntfBytes(d.Body, nil)
		ids, _ := args["user_ids"].([]any)
		if asked++; len(ids) > 1000 || d.RoutingKey != "rpc.user.get_many" {
			t.Errorf("a request %s has %d ids", d.RoutingKey, len(ids))
		}
		users, result := []any{}, map[string]any{}
		for i, id := range ids {
			if id.(int64)%2 == 1 { // the others do not exist
				continue
			}
			users = append(users, map[string]any{"id": id})
			if len(users) == perPage && i < len(ids)-1 {
				result["next_after_id"] = id
				break
			}
		}
		result["users"] = users
		s.send(d, reply(map[string]any{"result": result}))
	})
	c := dial(t, optionsFor(b))
	var ids, want []int64
	for id := int64(2600); id > 0; id-- {
		ids = append(ids, id, id)
	}
	for id := int64(2); id <= 2600; id += 2 {
		want = append(want, id)
	}
	users, err := c.GetMany(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for _, u := range users {
		got = append(got, u.ID)
	}
	if !slices.Equal(got, want) || asked > 6 {
		t.Errorf("%d requests give %d users: %v", asked, len(got), got)
	}
	if users, err := c.GetMany(t.Context(), nil); err != nil || len(users) > 0 {
		t.Errorf("no ids give %v, %v", users, err)
	}
}

func TestUnroutable(t *testing.T) {
	c := dial(t, optionsFor(testservers.RabbitMQ(t)))
	begin := time.Now()
	for range 3 {
		_, err := c.Get(t.Context(), client.Query{UserID: 1})
		is(t, err, client.ErrNoService)
	}
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("it takes %v", took)
	}
}

// A broker that takes in nothing costs each request its own time only.
func TestStalledBroker(t *testing.T) {
	b := testservers.RabbitMQ(t)
	script(t, b, func(s *scripted, d *amqp.Delivery) { s.send(d, userReply(1)) })
	p := newProxy(t, b)
	o := optionsFor(b)
	o.Addresses = []string{p.address}
	c := dial(t, o)
	get(t, c, 1)
	p.stall(true)
	args := append([]byte{0x81, 0xa1, 'x', 0xc6, 0, 0x10, 0, 0}, make([]byte, 1<<20)...)
	ctx := within(t, 300*time.Millisecond)
	var notSent atomic.Int64
	var asking sync.WaitGroup
	for range 200 { // more than may be under way
		asking.Go(func() {
			_, err := c.Do(ctx, client.Request{Operation: "get", Args: args})
			is(t, err, context.DeadlineExceeded)
			if errors.Is(err, client.ErrNotSent) {
				notSent.Add(1)
			} else {
				is(t, err, client.ErrNoReply)
			}
		})
	}
	asking.Wait()
	if took := time.Since(begun(ctx, 300*time.Millisecond)); took > 10*time.Second || notSent.Load() < 100 {
		t.Errorf("after %v, %d requests were not sent", took, notSent.Load())
	}
	p.stall(false)
	get(t, c, 1)
}

// begun returns when a context with a timeout was made.
func begun(ctx context.Context, timeout time.Duration) time.Time {
	deadline, _ := ctx.Deadline()
	return deadline.Add(-timeout)
}

func TestUnderWay(t *testing.T) {
	b := testservers.RabbitMQ(t)
	served := make(chan struct{})
	script(t, b, func(s *scripted, d *amqp.Delivery) {
		<-served
		s.send(d, userReply(userIDOf(d)))
	})
	c := dial(t, optionsFor(b))
	var asking sync.WaitGroup
	for id := range int64(1024) {
		asking.Go(func() { get(t, c, id+1) })
	}
	for ctx := within(t, patience); ; {
		_, err := c.Get(within(t, 50*time.Millisecond), client.Query{UserID: 1})
		is(t, err, context.DeadlineExceeded)
		if errors.Is(err, client.ErrNotSent) || ctx.Err() != nil {
			break
		}
	}
	close(served)
	asking.Wait()
	get(t, c, 1)
}

// A hostile client of the broker knows the reply queue.
func TestHostileReplies(t *testing.T) {
	b := testservers.RabbitMQ(t)
	bodies := make(chan []byte, 1)
	var refused atomic.Bool // by the broker, so that no client gets it
	script(t, b, func(s *scripted, d *amqp.Delivery) {
		for _, wrong := range []string{"", "nobody", "zzzzzzzzzzzzzzzz"} {
			s.channel.Publish("", d.ReplyTo, false, false, amqp.Publishing{CorrelationId: wrong, Body: userReply(66)})
		}
		select {
		case body := <-bodies:
			if !s.offer(d, body) {
				refused.Store(true)
				s.send(d, []byte("none"))
			}
			s.send(d, userReply(66)) // the second reply counts for nobody
		default:
			s.send(d, userReply(userIDOf(d)))
		}
	})
	c := dial(t, optionsFor(b))
	for name, body := range map[string][]byte{
		"empty": {}, "no_map": {0xc0}, "reserved": {0xc1}, "truncated": userReply(1)[:20], "trailing": append(userReply(1), 0),
		"neither":     reply(map[string]any{}),
		"both":        reply(map[string]any{"result": map[string]any{"id": 1}, "error": "conflict"}),
		"huge_map":    {0xdf, 0xff, 0xff, 0xff, 0xff},
		"huge_text":   {0x81, 0xdb, 0xff, 0xff, 0xff, 0xff},
		"no_id":       reply(map[string]any{"result": map[string]any{}}),
		"wrong_type":  reply(map[string]any{"result": map[string]any{"id": "1"}}),
		"result_type": reply(map[string]any{"result": 1}),
		"code_type":   reply(map[string]any{"error": 1}),
		"deep":        append([]byte{0x81, 0xa6, 'r', 'e', 's', 'u', 'l', 't'}, bytes.Repeat([]byte{0x91}, 1<<20)...),
		"large":       reply(map[string]any{"result": make([]byte, 17<<20)}),
	} {
		t.Run(name, func(t *testing.T) {
			refused.Store(false)
			bodies <- body
			_, err := c.Get(t.Context(), client.Query{UserID: 1})
			is(t, err, client.ErrMalformed)
			if refused.Load() && len(body) < 16<<20 {
				t.Error("the broker refused the reply")
			}
			get(t, c, 1)
		})
	}
}

// permissions are regular expressions, as RabbitMQ has them. The topics are those of amq.topic.
type permissions struct{ write, read, topicWrite, topicRead string }

// limitedLogin makes a login, and returns the options for it.
func limitedLogin(t *testing.T, b *testservers.Broker, name string, p permissions) client.Options {
	t.Helper()
	o := optionsFor(b)
	o.Login, o.Password = name+"-"+b.VHost, "p"
	user, vhost := url.PathEscape(o.Login), url.PathEscape(b.VHost)
	for path, body := range map[string]map[string]any{
		"permissions":       {"configure": "", "write": p.write, "read": p.read},
		"topic-permissions": {"exchange": "amq.topic", "write": p.topicWrite, "read": p.topicRead},
	} {
		err := b.Management.Call(t.Context(), http.MethodPut, "/api/users/"+user, map[string]any{"password": o.Password, "tags": ""}, nil)
		if err == nil {
			err = b.Management.Call(t.Context(), http.MethodPut, "/api/"+path+"/"+vhost+"/"+user, body, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { b.Management.Call(context.Background(), http.MethodDelete, "/api/users/"+user, nil, nil) })
	return o
}

// A request that the broker rejects costs the others a retry.
func TestRejected(t *testing.T) {
	b := testservers.RabbitMQ(t)
	script(t, b, func(s *scripted, d *amqp.Delivery) { s.send(d, userReply(userIDOf(d))) })
	c := dial(t, limitedLogin(t, b, "reader", permissions{write: ".*", read: ".*", topicWrite: `^rpc\.user\.get$`}))
	get(t, c, 1)
	err := c.Delete(t.Context(), 1)
	is(t, err, client.ErrRejected)
	if cause, ok := errors.AsType[*amqp.Error](err); !ok || cause.Code != amqp.AccessRefused {
		t.Errorf("the error is %v", err)
	}
	get(t, c, 2)
}

func TestClose(t *testing.T) {
	b := testservers.RabbitMQ(t)
	arrived := make(chan struct{}, 10)
	script(t, b, func(*scripted, *amqp.Delivery) { arrived <- struct{}{} })
	c := dial(t, optionsFor(b))
	ended := make(chan error, 1)
	go func() { ended <- c.Delete(t.Context(), 1) }()
	<-arrived
	c.Close()
	c.Close()
	is(t, <-ended, client.ErrNoReply)
	_, err := c.Get(t.Context(), client.Query{UserID: 1})
	is(t, err, client.ErrClosed)
	is(t, c.Watch(t.Context(), client.WatchOptions{Queue: "q"}), client.ErrClosed)
}

func TestDial(t *testing.T) {
	b := testservers.RabbitMQ(t)
	long := string(bytes.Repeat([]byte("x"), 256))
	for name, x := range map[string]struct {
		change func(o *client.Options)
		code   int // of the broker, 0: it does not refuse
	}{
		"no_address":     {func(o *client.Options) { o.Addresses = nil }, 0},
		"no_broker":      {func(o *client.Options) { o.Addresses = []string{"127.0.0.1:1"} }, 0},
		"wrong_password": {func(o *client.Options) { o.Password = "wrong" }, amqp.AccessRefused},
		"wrong_vhost":    {func(o *client.Options) { o.VHost = "wrong" }, amqp.NotAllowed},
		"wrong_method":   {func(o *client.Options) { o.LoginMethod = "ANONYMOUS" }, 0},
		"long_name":      {func(o *client.Options) { o.Name = long[:201] }, 0},
		"long_login":     {func(o *client.Options) { o.Login = long }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			o := optionsFor(b)
			x.change(&o)
			c, err := client.Dial(within(t, patience), o)
			if err == nil {
				c.Close()
				t.Fatal("it succeeds")
			}
			if refusal, ok := errors.AsType[*amqp.Error](err); ok != (x.code != 0) || ok && refusal.Code != x.code {
				t.Errorf("the error is %v", err)
			}
		})
	}
	t.Run("no_broker_any_more", func(t *testing.T) {
		p := newProxy(t, b)
		o := optionsFor(b)
		o.Addresses = []string{p.address}
		c := dial(t, o)
		p.close()
		c.Get(within(t, 100*time.Millisecond), client.Query{UserID: 1}) // may be sent over what is left of the connection
		_, err := c.Get(within(t, 400*time.Millisecond), client.Query{UserID: 1})
		is(t, err, client.ErrNotSent, context.DeadlineExceeded)
	})
}
