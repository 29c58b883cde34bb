package systemtest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestQueueIsDeclaredAsItAlwaysWas(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	if _, err := c.channel.QueueDeclarePassive(requestQueue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	c.declareQueue(t) // the broker refuses any difference
}

func TestRequestsThatWaitOnAnUpgradedBrokerAreAnswered(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.newCaller(t)
	c.declareQueue(t)
	if err := c.channel.QueueBind(requestQueue, "rpc.user.#", "amq.topic", false, nil); err != nil {
		t.Fatal(err)
	}
	create, refused := c.request("create", newUser()), c.request("delete", dict{"user_id": 77})
	c.send(t, create)
	c.send(t, refused)
	// One that came when callers did not make messages persistent.
	get := c.request("get", dict{"email": "nobody@secret.example"})
	get.DeliveryMode = amqp.Transient
	c.send(t, get)
	eventually(t, "the requests are in the queue", func() bool { return c.declareQueue(t).Messages == 3 })

	s.serve(t)
	c.await(t, create).is(t, dict{"user_id": 1})
	c.await(t, refused).refused(t, "not_found")
	c.await(t, get).refused(t, "not_found")
}

func TestAnswerGoesToReplyToUnderTheCorrelationID(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	u := c.create(t, newUser())
	for name, change := range map[string]func(*message){
		"the caller's own queue":    func(m *message) {},
		"direct reply-to":           func(m *message) { m.ReplyTo = direct },
		"no message_id":             func(m *message) { m.MessageId = "" },
		"no correlation_id":         func(m *message) { m.CorrelationId = "" },
		"an odd correlation_id":     func(m *message) { m.CorrelationId = "\x00\xff ☃" },
		"a content type of its own": func(m *message) { m.ContentType, m.ContentEncoding = "text/plain", "gzip" },
		"a priority and a type":     func(m *message) { m.Priority, m.Type, m.AppId = 9, "something else", "api" },
		"a time to live":            func(m *message) { m.Expiration = "600000" },
		"not persistent":            func(m *message) { m.DeliveryMode = 0 },
		"headers":                   func(m *message) { m.Headers = amqp.Table{"x": amqp.Table{"y": []any{int32(1), "z"}}} },
	} {
		t.Run(name, func(t *testing.T) {
			for _, operation := range []string{"get", "delete"} {
				m := c.request(operation, dict{"user_id": u["id"], "nope": nil})
				change(m)
				c.ask(t, m).refused(t, "bad_request")
			}
			m := c.request("get", dict{"user_id": u["id"]})
			change(m)
			c.ask(t, m).is(t, u)
		})
	}
}

func TestRequestWithoutReplyToIsCarriedOut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.serve(t)
	c := s.newCaller(t)
	u := c.create(t, newUser())
	m := c.request("patch", patchOf(u, op("replace", "/name", "s3cret Eve")))
	m.ReplyTo, m.CorrelationId, m.MessageId = "", "", ""
	c.send(t, m)
	refused := c.request("nope", dict{})
	refused.ReplyTo = ""
	c.send(t, refused)
	eventually(t, "the user has the new name", func() bool { return c.get(t, u["id"])["name"] == "s3cret Eve" })
	eventually(t, "both requests are acknowledged", func() bool { return c.declareQueue(t).Messages == 0 })
	v.oneConnection(t)
}

// A caller that knows the user's id may skip the shared queue.
func TestRequestTakesTheDirectWay(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.serve(t)
	c := s.newCaller(t)
	probe, err := c.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := probe.ExchangeDeclarePassive("glotpod.ident", "x-consistent-hash", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		u := c.create(t, newUser())
		key := strconv.FormatInt(u["id"].(int64), 10)
		c.ask(t, c.request("get", dict{"user_id": u["id"]}).directly(key)).is(t, u)
		patch := c.request("patch", patchOf(u, op("replace", "/name", "s3cret Eve"))).directly(key)
		first := c.ask(t, patch)
		first.is(t, list{op("replace", "/name", "s3cret Eve")})
		// The same request, whichever way it takes.
		patch.exchange, patch.key = "amq.topic", "rpc.user.patch"
		if again := c.ask(t, patch); !bytes.Equal(again.body, first.body) {
			t.Errorf("got %v, want %v", again.tree, first.tree)
		}
		c.ask(t, c.request("delete", dict{"user_id": u["id"]}).directly(key)).is(t, dict{"user_id": u["id"]})
	}
	// Keys that are no ids, or the ids of others, and types that are none.
	u := c.create(t, newUser())
	for _, key := range []string{"", "0", "-1", "999", "99999999999999999999", "abc", strings.Repeat("9", 255)} {
		c.ask(t, c.request("get", dict{"user_id": u["id"]}).directly(key)).is(t, u)
		nope := c.request("nope", dict{}).directly(key)
		c.ask(t, nope).refused(t, "operation_not_found")
		nope.Type = ""
		c.ask(t, nope).refused(t, "operation_not_found")
	}
	c.create(t, newUser())
	v.oneConnection(t)
}

// A caller that came first may have declared the exchange, as the contract has
// it.
func TestDirectWayLeadsSomewhereWhoeverDeclaredIt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.newCaller(t)
	if err := c.channel.ExchangeDeclare("glotpod.ident", "x-consistent-hash", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	s.serve(t)
	u := c.create(t, newUser())
	c.ask(t, c.request("get", dict{"user_id": u["id"]}).directly("1")).is(t, u)
}

func TestTraceparentIsCarriedOn(t *testing.T) {
	t.Parallel()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	notifications := s.subscribe(t)

	create := c.request("create", newUser())
	create.Headers = amqp.Table{"traceparent": trace, "other": "kept to itself"}
	a := c.ask(t, create)
	a.result(t)
	if a.headers["traceparent"] != trace {
		t.Errorf("the answer's headers are %v", a.headers)
	}
	if n := notifications.next(t); n.headers["traceparent"] != trace {
		t.Errorf("the notification's headers are %v", n.headers)
	}
	for _, odd := range []any{int64(7), "", "not one", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nx: y", []any{trace}} {
		get := c.request("get", dict{"user_id": 1})
		get.Headers = amqp.Table{"traceparent": odd}
		a := c.ask(t, get)
		a.result(t)
		if _, carried := a.headers["traceparent"]; carried {
			t.Errorf("the traceparent %v was carried on", odd)
		}
	}
}

// An operator's mistake, which an instance that insists makes up for.
func TestQueueThatIsDeletedIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t, settings{"amqp.insist": "true"})
	c := s.newCaller(t)
	if _, err := c.channel.QueueDelete(requestQueue, false, false, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "requests are answered again", func() bool {
		m := c.request("list", dict{})
		c.send(t, m)
		select {
		case <-c.answersTo(m.CorrelationId):
			return true
		case <-time.After(time.Second):
			return false
		}
	})
}

// Whatever instance answers, it knows what another one has answered.
func TestReadsSeeEveryAnsweredWrite(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	s.serve(t)
	c := s.newCaller(t)
	u := c.create(t, newUser())
	for i := range 100 {
		u["name"] = fmt.Sprintf("s3cret %d", i)
		c.call(t, "patch", patchOf(u, op("replace", "/name", u["name"]))).result(t)
		c.call(t, "get", dict{"user_id": u["id"]}).is(t, u)
		c.call(t, "list", dict{}).is(t, dict{"users": list{shown(u)}})
	}
}
