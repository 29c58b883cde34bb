package harness

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/systemtest/protocol"
)

// A Subscriber receives all notifications.
type Subscriber struct {
	deliveries <-chan amqp.Delivery
}

// A Notification is a notification that was received.
type Notification struct {
	Key         string
	Value       any // the decoded body
	Body        []byte
	MessageID   string
	Sequence    int64
	CommittedAt time.Time
	Headers     amqp.Table // others
}

// SubscriberTo returns the subscriber that receives these deliveries.
func SubscriberTo(deliveries <-chan amqp.Delivery) *Subscriber { return &Subscriber{deliveries} }

func (s *Site) Subscribe(t *testing.T) *Subscriber {
	t.Helper()
	conn, err := amqp.Dial(s.AMQPURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(Timeout)) })
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
	return &Subscriber{deliveries}
}

// Next checks the form of the next notification and returns it.
func (s *Subscriber) Next(t *testing.T) Notification {
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
		body := FromJSON(t, d.Body)
		if err := protocol.CheckNotification(d.RoutingKey, d.MessageId, d.Headers, body); err != nil {
			t.Errorf("%s: %v", d.RoutingKey, err)
		}
		sequence, _ := d.Headers["sequence"].(int64)
		committedAt, _ := d.Headers["committed_at"].(string)
		at, _ := time.Parse("2006-01-02T15:04:05.000000Z", committedAt)
		for _, own := range []string{"schema", "sequence", "committed_at"} {
			delete(d.Headers, own)
		}
		return Notification{d.RoutingKey, body, d.Body, d.MessageId, sequence, at, d.Headers}
	case <-time.After(Timeout):
		t.Fatal("no notification")
		return Notification{}
	}
}

// Expect fails unless the next notification has this key and body, and returns it.
func (s *Subscriber) Expect(t *testing.T, key string, body any) Notification {
	t.Helper()
	n := s.Next(t)
	if want := Normalize(body); n.Key != key || !reflect.DeepEqual(n.Value, want) {
		t.Errorf("got the notification %s %s\nwant %s %v", n.Key, n.Body, key, want)
	}
	return n
}

// FromJSON decodes JSON, integers as int64.
func FromJSON(t *testing.T, text []byte) any {
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
	case Dict:
		for key, e := range v {
			v[key] = withIntegers(e)
		}
	case List:
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
	CreateKey = "notifications.user.create"
	PatchKey  = "notifications.user.patch"
	DeleteKey = "notifications.user.delete"
)
