package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

const (
	// tryFor is how long a caller waits for an answer before it asks again.
	tryFor = 2 * time.Second

	// restFor bounds the pause of a caller between two operations.
	restFor = 40 * time.Millisecond
)

// A persistentCaller carries out one operation after another. It sends each request again,
// with the same message_id, by any way that leads to the service and over a new
// connection if need be, until there is a reply. It belongs to one goroutine.
type persistentCaller struct {
	t      *testing.T
	number int
	url    string
	random *rand.Rand

	conn     *amqp.Connection // nil when it is lost
	channel  *amqp.Channel
	answers  <-chan amqp.Delivery
	replyTo  string
	asked    map[string]*Operation // by correlation id
	finished []*Operation
	late     int // answers that came after the first one
}

// carryOut sends the request until there is a reply, or ctx is done: then the operation is
// left open. now returns the time since the load began.
func (c *persistentCaller) carryOut(ctx context.Context, now func() time.Duration, o *Operation) {
	o.caller, o.call = c.number, now()
	id := uuid.NewString()
	c.asked[id] = o
	for {
		if ctx.Err() != nil {
			o.open = true
			break
		}
		o.tries++
		answered, err := c.try(ctx, id, o)
		if o.ret = now(); answered {
			break
		}
		if err != nil {
			c.hangUp()
		}
		Pause(ctx, 100*time.Millisecond)
	}
	c.finished = append(c.finished, o)
}

// try sends the request once. It returns false if there is no final reply yet. After an
// error, the connection cannot be used any more.
func (c *persistentCaller) try(ctx context.Context, id string, o *Operation) (bool, error) {
	if c.conn == nil {
		if err := c.dial(); err != nil {
			return false, err
		}
	}
	copies := 1
	if o.writes() && c.random.IntN(20) == 0 {
		copies = 2 // at once, and maybe by two ways
	}
	for range copies {
		if err := c.send(id, o); err != nil {
			return false, err
		}
	}
	timer := time.NewTimer(tryFor)
	defer timer.Stop()
	for {
		select {
		case d, ok := <-c.answers:
			if !ok {
				return false, amqp.ErrClosed
			}
			switch first := c.asked[d.CorrelationId]; first {
			case nil:
				c.t.Errorf("an answer that belongs to no request: %x", d.Body)
				continue
			case o:
			default:
				c.lateAnswer(first, d.Body)
				continue
			}
			got, err := o.read(d.Body)
			if err != nil {
				c.t.Errorf("%v was answered with %x: %v", o, d.Body, err)
			}
			if got.code == "invocation_failed" {
				return false, nil
			}
			o.reply = got
			return true, nil
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, nil
		}
	}
}

// send publishes the request to the shared queue or directly to its partition.
func (c *persistentCaller) send(id string, o *Operation) error {
	m := amqp.Publishing{
		ReplyTo:       c.replyTo,
		CorrelationId: id,
		MessageId:     id,
		DeliveryMode:  amqp.Persistent,
		Body:          harness.Pack(o.args()),
	}
	exchange, key := "amq.topic", "rpc.user."+o.kind
	if o.id != 0 && c.random.IntN(2) == 0 {
		m.Type = key
		exchange, key = "glotpod.ident", strconv.FormatInt(o.id, 10)
	}
	return c.channel.Publish(exchange, key, false, false, m)
}

// lateAnswer checks another reply to an operation that has had one: all replies to a
// write are the same.
func (c *persistentCaller) lateAnswer(o *Operation, body []byte) {
	c.late++
	got, err := o.read(body)
	if err != nil {
		c.t.Errorf("%v was answered later with %x: %v", o, body, err)
	} else if o.writes() && !o.open && got.code != "invocation_failed" && got != o.reply {
		c.t.Errorf("%v was answered again, with %+v", o, got)
	}
}

func (c *persistentCaller) dial() (err error) {
	const silence = 5 * time.Second
	c.conn, err = amqp.DialConfig(c.url, amqp.Config{Dial: amqp.DefaultDial(silence), Heartbeat: silence})
	if err != nil {
		c.conn = nil
		return err
	}
	if c.channel, err = c.conn.Channel(); err != nil {
		return err
	}
	c.replyTo = harness.DirectReplyTo
	if c.number%2 == 0 {
		q, err := c.channel.QueueDeclare("", false, true, true, false, nil)
		if err != nil {
			return err
		}
		c.replyTo = q.Name
	}
	c.answers, err = c.channel.Consume(c.replyTo, "", true, false, false, false, nil)
	return err
}

func (c *persistentCaller) hangUp() {
	if c.conn != nil {
		c.conn.CloseDeadline(time.Now().Add(time.Second))
		c.conn = nil
	}
}

// args returns the arguments of the request.
func (o *Operation) args() dict {
	switch o.kind {
	case "create":
		return o.user.tree()
	case "patch":
		return dict{"user_id": o.id, "ops": o.ops}
	case "get_many":
		return dict{"user_ids": list{o.id}}
	case "list":
		return dict{"name": personWord(o.person)}
	}
	args := make(dict)
	if o.id != 0 {
		args["user_id"] = o.id
	}
	if o.email != "" {
		args["email"] = o.email
	}
	if len(args) == 0 {
		args["github_id"] = githubOf(o.person)
	}
	return args
}

// read decodes a reply to the operation.
func (o *Operation) read(body []byte) (r reply, err error) {
	tree, rest, err := msgp.ReadIntfBytes(body)
	if err != nil {
		return r, err
	}
	if len(rest) > 0 {
		return r, errors.New("something follows the answer")
	}
	top, _ := harness.Normalize(tree).(dict)
	if code, ok := top["error"].(string); ok {
		return reply{code: code}, nil
	}
	result := top["result"]
	switch o.kind {
	case "get":
		r.user, err = viewOf(result)
	case "list", "get_many":
		page, _ := result.(dict)
		users, isList := page["users"].(list)
		switch {
		case !isList || len(users) > 1:
			err = fmt.Errorf("a page of users of one person: %v", result)
		case len(users) == 1:
			r.user, err = viewOf(users[0])
		}
	case "patch":
		if !reflect.DeepEqual(result, o.ops) {
			err = fmt.Errorf("the answer is not the operations as given: %v", result)
		}
	default:
		user, _ := result.(dict)
		r.id, _ = user["user_id"].(int64)
		if !reflect.DeepEqual(result, dict{"user_id": r.id}) {
			err = fmt.Errorf("the answer is no user's id: %v", result)
		}
	}
	return r, err
}

// Pause waits for d, or until ctx is done.
func Pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
