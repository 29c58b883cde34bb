package contract

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	x := serve(t)
	x.run(t, "queue_declaration", testRequestQueueDeclaration)
	x.run(t, "reply_to", testRequestReplyTo)
	x.run(t, "without_reply_to", testRequestWithoutReplyTo)
	x.run(t, "direct", testRequestDirect)
	x.run(t, "expiration", testRequestExpiration)
	t.Run("waiting_before_the_start", testRequestWaitingBeforeTheStart)
	t.Run("direct_exchange_of_callers", testRequestDirectExchangeOfCallers)
	t.Run("moved", testRequestMoved)
	t.Run("traceparent", testRequestTraceparent)
	t.Run("deleted_queue", testRequestDeletedQueue)
	t.Run("read_your_writes", testRequestReadYourWrites)
}

func testRequestQueueDeclaration(t *testing.T, x *served) {
	c := x.caller
	if _, err := c.Channel.QueueDeclarePassive(harness.RequestQueue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	c.DeclareQueue(t) // the broker refuses any difference
}

func testRequestWaitingBeforeTheStart(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	c := s.NewCaller(t)
	c.DeclareQueue(t)
	if err := c.Channel.QueueBind(harness.RequestQueue, "rpc.user.#", "amq.topic", false, nil); err != nil {
		t.Fatal(err)
	}
	create, refused := c.NewRequest("create", harness.NewUser()), c.NewRequest("delete", dict{"user_id": 77})
	c.Send(t, create)
	c.Send(t, refused)
	// One that came when callers did not make messages persistent.
	get := c.NewRequest("get", dict{"email": "nobody@secret.example"})
	get.DeliveryMode = amqp.Transient
	c.Send(t, get)
	harness.Eventually(t, "the requests are in the queue", func() bool { return c.DeclareQueue(t).Messages == 3 })

	s.Serve(t)
	c.AwaitReply(t, create).IsResult(t, dict{"user_id": 1})
	c.AwaitReply(t, refused).IsError(t, "not_found")
	c.AwaitReply(t, get).IsError(t, "not_found")
}

func testRequestReplyTo(t *testing.T, x *served) {
	c := x.caller
	u := c.Create(t, harness.NewUser())
	for name, change := range map[string]func(*harness.Request){
		"the caller's own queue":    func(m *harness.Request) {},
		"direct reply-to":           func(m *harness.Request) { m.ReplyTo = harness.DirectReplyTo },
		"no message_id":             func(m *harness.Request) { m.MessageId = "" },
		"no correlation_id":         func(m *harness.Request) { m.CorrelationId = "" },
		"an odd correlation_id":     func(m *harness.Request) { m.CorrelationId = "\x00\xff ☃" },
		"a content type of its own": func(m *harness.Request) { m.ContentType, m.ContentEncoding = "text/plain", "gzip" },
		"a priority and a type":     func(m *harness.Request) { m.Priority, m.Type, m.AppId = 9, "something else", "api" },
		"a time to live":            func(m *harness.Request) { m.Expiration = "600000" },
		"not persistent":            func(m *harness.Request) { m.DeliveryMode = 0 },
		"headers":                   func(m *harness.Request) { m.Headers = amqp.Table{"x": amqp.Table{"y": []any{int32(1), "z"}}} },
	} {
		t.Run(name, func(t *testing.T) {
			for _, operation := range []string{"get", "delete"} {
				m := c.NewRequest(operation, dict{"user_id": u["id"], "nope": nil})
				change(m)
				c.Ask(t, m).IsError(t, "bad_request")
			}
			m := c.NewRequest("get", dict{"user_id": u["id"]})
			change(m)
			c.Ask(t, m).IsResult(t, u)
		})
	}
}

func testRequestWithoutReplyTo(t *testing.T, x *served) {
	v, c := x.instance, x.caller
	u := c.Create(t, harness.NewUser())
	m := c.NewRequest("patch", harness.Patch(u, op("replace", "/name", "s3cret Eve")))
	m.ReplyTo, m.CorrelationId, m.MessageId = "", "", ""
	c.Send(t, m)
	refused := c.NewRequest("nope", dict{})
	refused.ReplyTo = ""
	c.Send(t, refused)
	harness.Eventually(t, "the user has the new name", func() bool { return c.Get(t, u["id"])["name"] == "s3cret Eve" })
	harness.Eventually(t, "both requests are acknowledged", func() bool { return c.DeclareQueue(t).Messages == 0 })
	v.CheckOneConnection(t)
}

// A caller that knows the user's id may skip the shared queue.
func testRequestDirect(t *testing.T, x *served) {
	v, c := x.instance, x.caller
	probe, err := c.Conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := probe.ExchangeDeclarePassive("glotpod.ident", "x-consistent-hash", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		u := c.Create(t, harness.NewUser())
		key := strconv.FormatInt(u["id"].(int64), 10)
		c.Ask(t, c.NewRequest("get", dict{"user_id": u["id"]}).ViaDirectReply(key)).IsResult(t, u)
		patch := c.NewRequest("patch", harness.Patch(u, op("replace", "/name", "s3cret Eve"))).ViaDirectReply(key)
		first := c.Ask(t, patch)
		first.IsResult(t, list{op("replace", "/name", "s3cret Eve")})
		// The same request, whichever way it takes.
		patch.Exchange, patch.Key = "amq.topic", "rpc.user.patch"
		if again := c.Ask(t, patch); !bytes.Equal(again.Body, first.Body) {
			t.Errorf("got %v, want %v", again.Value, first.Value)
		}
		c.Ask(t, c.NewRequest("delete", dict{"user_id": u["id"]}).ViaDirectReply(key)).IsResult(t, dict{"user_id": u["id"]})
	}
	// Keys that are no ids, or the ids of others, and types that are none.
	u := c.Create(t, harness.NewUser())
	for _, key := range []string{"", "0", "-1", "999", "99999999999999999999", "abc", strings.Repeat("9", 255)} {
		c.Ask(t, c.NewRequest("get", dict{"user_id": u["id"]}).ViaDirectReply(key)).IsResult(t, u)
		nope := c.NewRequest("nope", dict{}).ViaDirectReply(key)
		c.Ask(t, nope).IsError(t, "operation_not_found")
		nope.Type = ""
		c.Ask(t, nope).IsError(t, "operation_not_found")
	}
	c.Create(t, harness.NewUser())
	v.CheckOneConnection(t)
}

// A caller that came first may have declared the exchange, as the contract has
// it.
func testRequestDirectExchangeOfCallers(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	c := s.NewCaller(t)
	if err := c.Channel.ExchangeDeclare("glotpod.ident", "x-consistent-hash", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	s.Serve(t)
	u := c.Create(t, harness.NewUser())
	c.Ask(t, c.NewRequest("get", dict{"user_id": u["id"]}).ViaDirectReply("1")).IsResult(t, u)
}

// Requests come back to the shared queue under its name: dead-lettered, or moved by a
// shovel. Some of the writes are forwarded to the other instance.
func testRequestMoved(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	s.Serve(t)
	c := s.NewCaller(t)
	users := make([]dict, 8)
	for i := range users {
		users[i] = c.Create(t, harness.NewUser())
	}
	// A queue whose messages are dead-lettered at once, to the shared queue by its name.
	const exchange, parked = "parking", "parked"
	if err := c.Channel.ExchangeDeclare(exchange, "fanout", false, true, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Channel.QueueDeclare(parked, false, false, true, false, amqp.Table{
		"x-message-ttl": int32(0), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": harness.RequestQueue,
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.Channel.QueueBind(parked, "", exchange, false, nil); err != nil {
		t.Fatal(err)
	}
	deadLettered := func(m *harness.Request) *harness.Request {
		m.Exchange = exchange
		return m
	}
	moved := func(m *harness.Request) *harness.Request {
		m.Type, m.Exchange, m.Key = m.Key, "", harness.RequestQueue
		return m
	}
	for way, send := range map[string]func(*harness.Request) *harness.Request{"dead-lettered": deadLettered, "moved": moved} {
		for _, u := range users {
			ops := list{op("replace", "/name", "s3cret "+way)}
			c.Ask(t, send(c.NewRequest("patch", harness.Patch(u, ops...)))).IsResult(t, ops)
			if name := c.Get(t, u["id"])["name"]; name != "s3cret "+way {
				t.Errorf("%s: the name is %q", way, name)
			}
		}
		c.Ask(t, send(c.NewRequest("get", dict{"user_id": 1_000_000}))).IsError(t, "not_found")
		c.Ask(t, send(c.NewRequest("nope", dict{}))).IsError(t, "operation_not_found")
	}

	get := func() *harness.Request { return c.NewRequest("get", dict{"user_id": users[0]["id"]}) }
	// The routing key counts if it is that of a request.
	unknown := get()
	unknown.Type, unknown.Key = unknown.Key, "rpc.user.nope"
	c.Ask(t, unknown).IsError(t, "operation_not_found")
	// Nothing says which operation these are.
	for _, headers := range []amqp.Table{
		nil, {"x-death": "rpc.user.get"}, {"x-death": []any{}}, {"x-death": []any{"rpc.user.get"}}, {"x-death": []any{amqp.Table{}}},
		{"x-death": []any{amqp.Table{"routing-keys": "rpc.user.get"}}}, {"x-death": []any{amqp.Table{"routing-keys": []any{int32(7), "get"}}}},
	} {
		lost := moved(get())
		lost.Type, lost.Headers = "get", headers
		c.Ask(t, lost).IsError(t, "operation_not_found")
	}
}

// A write that waits behind another write of the same user is dropped when it expires.
func testRequestExpiration(t *testing.T, x *served) {
	s, c := x.site, x.caller
	u := c.Create(t, harness.NewUser())
	rename := func(name, expiration string) *harness.Request {
		m := c.NewRequest("patch", harness.Patch(u, op("replace", "/name", name)))
		m.Expiration = expiration
		return m
	}
	locking := s.Connect(t)
	tx, err := locking.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT FROM users WHERE id = $1 FOR UPDATE", u["id"]); err != nil {
		t.Fatal(err)
	}
	const expiration = time.Second
	first, expiring, last := rename("s3cret 1", ""), rename("s3cret 2", "1000"), rename("s3cret 3", "600000")
	for _, m := range []*harness.Request{first, expiring, last} {
		c.Send(t, m)
	}
	harness.Eventually(t, "the requests are delivered", func() bool { return c.DeclareQueue(t).Messages == 0 })
	time.Sleep(2 * expiration)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.AwaitReply(t, first).Result(t)
	c.AwaitReply(t, last).Result(t)
	select {
	case a := <-c.Replies(expiring.CorrelationId):
		t.Errorf("the expired request has the reply %v", a.Value)
	default:
	}
	// It was not carried out, so it is not a replay.
	again := sentAgain(expiring)
	again.Expiration = ""
	c.Ask(t, again).Result(t)
	if name := c.Get(t, u["id"])["name"]; name != "s3cret 2" {
		t.Errorf("the name is %q", name)
	}
	if n := s.Count(t, "SELECT count(position) FROM ident_log WHERE user_id = $1 AND operation = 'patch'", u["id"]); n != 3 {
		t.Errorf("%d patches were made", n)
	}
}

func testRequestTraceparent(t *testing.T) {
	t.Parallel()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	notifications := s.Subscribe(t)

	create := c.NewRequest("create", harness.NewUser())
	create.Headers = amqp.Table{"traceparent": trace, "other": "kept to itself"}
	a := c.Ask(t, create)
	a.Result(t)
	if a.Headers["traceparent"] != trace {
		t.Errorf("the answer's headers are %v", a.Headers)
	}
	if n := notifications.Next(t); n.Headers["traceparent"] != trace {
		t.Errorf("the notification's headers are %v", n.Headers)
	}
	for _, odd := range []any{
		int64(7), "", "not one", []any{trace}, trace + "\r\nx: y", trace + "-more", strings.ToUpper(trace), "ff" + trace[2:], strings.Repeat("-", 55),
		"00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
	} {
		get := c.NewRequest("get", dict{"user_id": 1})
		get.Headers = amqp.Table{"traceparent": odd}
		a := c.Ask(t, get)
		a.Result(t)
		if _, carried := a.Headers["traceparent"]; carried {
			t.Errorf("the traceparent %v was carried on", odd)
		}
	}
}

// An operator's mistake, which an instance that insists makes up for.
func testRequestDeletedQueue(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t, harness.Settings{"amqp.insist": "true"})
	c := s.NewCaller(t)
	if _, err := c.Channel.QueueDelete(harness.RequestQueue, false, false, false); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "there are replies again", func() bool {
		m := c.NewRequest("list", dict{})
		c.Send(t, m)
		select {
		case <-c.Replies(m.CorrelationId):
			return true
		case <-time.After(time.Second):
			return false
		}
	})
}

// A read sees each write that has a reply, whichever instances carry them out.
func testRequestReadYourWrites(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	for i := range 100 {
		u["name"] = fmt.Sprintf("s3cret %d", i)
		c.Call(t, "patch", harness.Patch(u, op("replace", "/name", u["name"]))).Result(t)
		c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
		c.CheckListed(t, dict{}, list{harness.AsListed(u)})
	}
}
