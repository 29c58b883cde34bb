package systemtest

import (
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"
)

type (
	dict = map[string]any
	list = []any
)

// direct is the reply_to of those who want direct replies.
const direct = "amq.rabbitmq.reply-to"

// A caller is another service that asks for users. It is safe for concurrent
// use, but for the methods that take a test.
type caller struct {
	conn    *amqp.Connection
	channel *amqp.Channel
	queue   string // its own, for answers

	mu      sync.Mutex // guards the following field
	answers map[string]chan answer
}

// An answer is what comes back for a request.
type answer struct {
	tree          any // the decoded body
	body          []byte
	correlationID string
	headers       amqp.Table
	err           error // it cannot be decoded
}

// A message is a request, ready to be sent.
type message struct {
	amqp.Publishing
	exchange, key string
}

func (s *site) newCaller(t *testing.T) *caller {
	t.Helper()
	c, err := dialCaller(s.amqpURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func dialCaller(url string) (*caller, error) {
	conn, err := amqp.Dial(url)
	if err != nil {
		return nil, err
	}
	c := &caller{conn: conn, answers: make(map[string]chan answer)}
	if err := c.open(); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *caller) open() (err error) {
	if c.channel, err = c.conn.Channel(); err != nil {
		return err
	}
	q, err := c.channel.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return err
	}
	c.queue = q.Name
	for _, queue := range []string{c.queue, direct} {
		deliveries, err := c.channel.Consume(queue, "", true, false, false, false, nil)
		if err != nil {
			return err
		}
		go c.receive(deliveries)
	}
	return nil
}

func (c *caller) close() { c.conn.CloseDeadline(time.Now().Add(patience)) }

func (c *caller) receive(deliveries <-chan amqp.Delivery) {
	for d := range deliveries {
		tree, rest, err := msgp.ReadIntfBytes(d.Body)
		if err == nil && len(rest) > 0 {
			err = msgp.ErrShortBytes
		}
		c.answersTo(d.CorrelationId) <- answer{normal(tree), d.Body, d.CorrelationId, d.Headers, err}
	}
}

// answersTo returns where the answers with a correlation id arrive.
func (c *caller) answersTo(correlationID string) chan answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answers[correlationID] == nil {
		c.answers[correlationID] = make(chan answer, 1000)
	}
	return c.answers[correlationID]
}

// request makes a request as callers usually do: msgpack of the arguments, under
// ids that are new, to be answered to the caller's own queue.
func (c *caller) request(operation string, args any) *message {
	body, isRaw := args.([]byte)
	if !isRaw {
		body = pack(args)
	}
	return &message{exchange: "amq.topic", key: "rpc.user." + operation, Publishing: amqp.Publishing{
		ReplyTo:       c.queue,
		CorrelationId: uuid.NewString(),
		MessageId:     uuid.NewString(),
		DeliveryMode:  amqp.Persistent,
		Body:          body,
	}}
}

// publish sends a request.
func (c *caller) publish(m *message) error {
	return c.channel.Publish(m.exchange, m.key, false, false, m.Publishing)
}

func (c *caller) send(t *testing.T, m *message) {
	t.Helper()
	if err := c.publish(m); err != nil {
		t.Fatal(err)
	}
}

// await returns the next answer to a request that was sent.
func (c *caller) await(t *testing.T, m *message) answer {
	t.Helper()
	select {
	case a := <-c.answersTo(m.CorrelationId):
		if a.err != nil {
			t.Fatalf("the answer %x is not msgpack: %v", a.body, a.err)
		}
		a.checkForm(t)
		return a
	case <-time.After(patience):
		t.Fatalf("no answer to %s", m.key)
		return answer{}
	}
}

// ask sends a request and returns the answer.
func (c *caller) ask(t *testing.T, m *message) answer {
	t.Helper()
	c.send(t, m)
	return c.await(t, m)
}

// call asks for an operation and returns the answer.
func (c *caller) call(t *testing.T, operation string, args any) answer {
	t.Helper()
	return c.ask(t, c.request(operation, args))
}

// checkForm fails unless the answer is {"result": …}, or {"error": code} and
// what may stand beside it.
func (a answer) checkForm(t *testing.T) {
	t.Helper()
	top, ok := a.tree.(dict)
	if _, isResult := top["result"]; ok && isResult && len(top) == 1 {
		return
	}
	if _, isCode := top["error"].(string); !isCode {
		t.Fatalf("the answer is neither a result nor an error: %v", a.tree)
	}
	for key, v := range top {
		switch v.(type) {
		case string:
			ok = key == "error" || key == "message"
		case bool:
			ok = key == "retryable"
		default:
			ok = false
		}
		if !ok {
			t.Errorf("the error has %q: %v", key, v)
		}
	}
}

// code returns the answer's error code, "" for a result.
func (a answer) code() string {
	top, _ := a.tree.(dict)
	code, _ := top["error"].(string)
	return code
}

func (a answer) result(t *testing.T) any {
	t.Helper()
	if a.code() != "" {
		t.Fatalf("the answer is an error: %v", a.tree)
	}
	return a.tree.(dict)["result"]
}

// refused fails unless the answer is an error with this code.
func (a answer) refused(t *testing.T, code string) {
	t.Helper()
	if a.code() != code {
		t.Errorf("got the answer %.300v, want %s", a.tree, code)
	}
}

// is fails unless the answer is this result.
func (a answer) is(t *testing.T, want any) {
	t.Helper()
	if got := a.result(t); !reflect.DeepEqual(got, normal(want)) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// pack encodes a value in msgpack.
func pack(v any) []byte {
	b, err := msgp.AppendIntf(nil, v)
	if err != nil {
		panic(err)
	}
	return b
}

// normal makes all integers of a tree int64, except those that do not fit.
func normal(v any) any {
	switch v := v.(type) {
	case dict:
		for key, e := range v {
			v[key] = normal(e)
		}
	case list:
		for i, e := range v {
			v[i] = normal(e)
		}
	case int:
		return int64(v)
	case uint64:
		if int64(v) >= 0 {
			return int64(v)
		}
	}
	return v
}

const requestQueue = "glotpod.rpc/ident"

// declareQueue declares the shared queue as the Python service did.
func (c *caller) declareQueue(t *testing.T) amqp.Queue {
	t.Helper()
	q, err := c.channel.QueueDeclare(requestQueue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// directly sends the request to its user, by the id.
func (m *message) directly(key string) *message {
	m.Type = m.key
	m.exchange, m.key = "glotpod.ident", key
	return m
}
