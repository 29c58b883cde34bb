package systemtest

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A subscriber hears all notifications.
type subscriber struct {
	deliveries <-chan amqp.Delivery
}

// A notification is one that was heard.
type notification struct {
	key       string
	tree      any // the decoded body
	body      []byte
	messageID string
	headers   amqp.Table
}

func (s *site) subscribe(t *testing.T) *subscriber {
	t.Helper()
	conn, err := amqp.Dial(s.amqpURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(patience)) })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	q, err := channel.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := channel.QueueBind(q.Name, "notifications.#", "amq.topic", false, nil); err != nil {
		t.Fatal(err)
	}
	deliveries, err := channel.Consume(q.Name, "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &subscriber{deliveries}
}

// next returns the next notification, whose form is checked.
func (s *subscriber) next(t *testing.T) notification {
	t.Helper()
	select {
	case d, ok := <-s.deliveries:
		if !ok {
			t.Fatal("the subscriber's connection was lost")
		}
		if d.Exchange != "amq.topic" || d.DeliveryMode != amqp.Persistent || d.MessageId == "" {
			t.Errorf("the notification %s came by %q, in delivery mode %d, with the message id %q",
				d.RoutingKey, d.Exchange, d.DeliveryMode, d.MessageId)
		}
		return notification{d.RoutingKey, fromJSON(t, d.Body), d.Body, d.MessageId, d.Headers}
	case <-time.After(patience):
		t.Fatal("no notification")
		return notification{}
	}
}

// hears fails unless the next notification is this one.
func (s *subscriber) hears(t *testing.T, key string, body any) notification {
	t.Helper()
	n := s.next(t)
	if want := normal(body); n.key != key || !reflect.DeepEqual(n.tree, want) {
		t.Errorf("got the notification %s %s\nwant %s %v", n.key, n.body, key, want)
	}
	return n
}

// fromJSON decodes JSON, integers as int64.
func fromJSON(t *testing.T, text []byte) any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil || decoder.More() {
		t.Fatalf("this is not JSON: %s", text)
	}
	return withIntegers(v)
}

func withIntegers(v any) any {
	switch v := v.(type) {
	case dict:
		for key, e := range v {
			v[key] = withIntegers(e)
		}
	case list:
		for i, e := range v {
			v[i] = withIntegers(e)
		}
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n
		}
	}
	return v
}

const (
	createKey = "notifications.user.create"
	patchKey  = "notifications.user.patch"
	deleteKey = "notifications.user.delete"
)
