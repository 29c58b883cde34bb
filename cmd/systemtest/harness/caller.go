package harness

import (
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cmd/systemtest/protocol"
)

type (
	Dict = map[string]any
	List = []any
)

// DirectReplyTo is the reply_to of a request for a direct reply.
const DirectReplyTo = "amq.rabbitmq.reply-to"

// A Caller is a service that sends requests. It is safe for concurrent use, except for
// the methods that take a test.
type Caller struct {
	Conn    *amqp.Connection
	Channel *amqp.Channel
	queue   string // its own, for replies

	mu      sync.Mutex // guards the following field
	replies map[string]chan Reply
}

// A Reply is the reply to a request.
type Reply struct {
	Value         any // the decoded body
	Body          []byte
	correlationID string
	Headers       amqp.Table
	Err           error // of decoding the body
}

// A Request is a message that is ready to be sent.
type Request struct {
	amqp.Publishing
	Exchange, Key string
}

// NewCaller connects a caller that is closed when the test ends.
func (s *Site) NewCaller(t *testing.T) *Caller {
	t.Helper()
	c, err := DialCaller(s.AMQPURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

// DialCaller connects a caller that its user closes.
func DialCaller(url string) (*Caller, error) {
	conn, err := amqp.Dial(url)
	if err != nil {
		return nil, err
	}
	c := &Caller{Conn: conn, replies: make(map[string]chan Reply)}
	if err := c.open(); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *Caller) open() (err error) {
	if c.Channel, err = c.Conn.Channel(); err != nil {
		return err
	}
	q, err := c.Channel.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return err
	}
	c.queue = q.Name
	for _, queue := range []string{c.queue, DirectReplyTo} {
		deliveries, err := c.Channel.Consume(queue, "", true, false, false, false, nil)
		if err != nil {
			return err
		}
		go c.receive(deliveries)
	}
	return nil
}

func (c *Caller) close() { c.Conn.CloseDeadline(time.Now().Add(Timeout)) }

func (c *Caller) receive(deliveries <-chan amqp.Delivery) {
	for d := range deliveries {
		tree, rest, err := msgp.ReadIntfBytes(d.Body)
		if err == nil && len(rest) > 0 {
			err = msgp.ErrShortBytes
		}
		c.Replies(d.CorrelationId) <- Reply{Normalize(tree), d.Body, d.CorrelationId, d.Headers, err}
	}
}

// Replies returns the channel that receives the replies with a correlation id.
func (c *Caller) Replies(correlationID string) chan Reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replies[correlationID] == nil {
		c.replies[correlationID] = make(chan Reply, 1000)
	}
	return c.replies[correlationID]
}

// NewRequest makes a request as callers usually do: the arguments in msgpack, with new
// ids, and the caller's own queue for the reply.
func (c *Caller) NewRequest(operation string, args any) *Request {
	body, isRaw := args.([]byte)
	if !isRaw {
		body = Pack(args)
	}
	return &Request{Exchange: "amq.topic", Key: "rpc.user." + operation, Publishing: amqp.Publishing{
		ReplyTo:       c.queue,
		CorrelationId: uuid.NewString(),
		MessageId:     uuid.NewString(),
		DeliveryMode:  amqp.Persistent,
		Body:          body,
	}}
}

// Publish sends a request.
func (c *Caller) Publish(m *Request) error {
	return c.Channel.Publish(m.Exchange, m.Key, false, false, m.Publishing)
}

func (c *Caller) Send(t *testing.T, m *Request) {
	t.Helper()
	if err := c.Publish(m); err != nil {
		t.Fatal(err)
	}
}

// AwaitReply returns the next reply to a request that was sent.
func (c *Caller) AwaitReply(t *testing.T, m *Request) Reply {
	t.Helper()
	select {
	case a := <-c.Replies(m.CorrelationId):
		if a.Err != nil {
			t.Fatalf("the reply %x is not msgpack: %v", a.Body, a.Err)
		}
		a.checkForm(t, m)
		return a
	case <-time.After(Timeout):
		t.Fatalf("no reply to %s", m.Key)
		return Reply{}
	}
}

// Ask sends a request and returns the reply.
func (c *Caller) Ask(t *testing.T, m *Request) Reply {
	t.Helper()
	c.Send(t, m)
	return c.AwaitReply(t, m)
}

// Call sends a request for an operation and returns the reply.
func (c *Caller) Call(t *testing.T, operation string, args any) Reply {
	t.Helper()
	return c.Ask(t, c.NewRequest(operation, args))
}

// checkForm fails unless the reply to a request has the form that cluster/asyncapi.yaml says, and so
// has the request if the reply is a result.
func (a Reply) checkForm(t *testing.T, m *Request) {
	t.Helper()
	var request any
	if a.ErrorCode() == "" {
		request, _, _ = msgp.ReadIntfBytes(m.Body)
	}
	operation, ok := strings.CutPrefix(m.Key, "rpc.user.")
	if !ok {
		operation = strings.TrimPrefix(m.Type, "rpc.user.")
	}
	if err := protocol.CheckReply(operation, request, a.Value); err != nil {
		t.Errorf("%s: %v", m.Key, err)
	}
}

// ErrorCode returns the code of an error reply, "" for a result.
func (a Reply) ErrorCode() string {
	top, _ := a.Value.(Dict)
	code, _ := top["error"].(string)
	return code
}

func (a Reply) Result(t *testing.T) any {
	t.Helper()
	if a.ErrorCode() != "" {
		t.Fatalf("the reply is an error: %v", a.Value)
	}
	return a.Value.(Dict)["result"]
}

// IsError fails unless the reply is an error with this code.
func (a Reply) IsError(t *testing.T, code string) {
	t.Helper()
	if a.ErrorCode() != code {
		t.Errorf("got the reply %.300v, want %s", a.Value, code)
	}
}

// IsResult fails unless the reply is this result.
func (a Reply) IsResult(t *testing.T, want any) {
	t.Helper()
	if got := a.Result(t); !reflect.DeepEqual(got, Normalize(want)) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// Pack encodes a value in msgpack.
func Pack(v any) []byte {
	b, err := msgp.AppendIntf(nil, v)
	if err != nil {
		panic(err)
	}
	return b
}

// Normalize makes all integers of a tree int64, except those that do not fit.
func Normalize(v any) any {
	switch v := v.(type) {
	case Dict:
		for key, e := range v {
			v[key] = Normalize(e)
		}
	case List:
		for i, e := range v {
			v[i] = Normalize(e)
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

const RequestQueue = "glotpod.rpc/ident"

// DeclareQueue declares the shared queue as the Python service did.
func (c *Caller) DeclareQueue(t *testing.T) amqp.Queue {
	t.Helper()
	q, err := c.Channel.QueueDeclare(RequestQueue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// ViaDirectReply sends the request to its user, by the id.
func (m *Request) ViaDirectReply(key string) *Request {
	m.Type = m.Key
	m.Exchange, m.Key = "glotpod.ident", key
	return m
}
