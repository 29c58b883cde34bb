package clients

import (
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/testservers"
)

// A scriptedService does what the argument "do" of a request says. Its result tells how the
// request came.
type scriptedService struct {
	channel *amqp.Channel
	proxy   *harness.Proxy
	login   string

	// Of the request that is being tried. Only one is at a time.
	asked    string
	attempts int
	ids      map[string]bool
}

// createKey is bound while the request of the argument "bind_create" says so.
const createKey = "rpc.user.create"

// startScript starts a scripted service at a broker behind a proxy, and returns the URL for clients.
func startScript(t *testing.T) string {
	t.Helper()
	b := testservers.RabbitMQ(t)
	conn, err := amqp.Dial(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	s := &scriptedService{proxy: harness.NewProxy(t, strconv.Itoa(b.Port)), login: b.User}
	if s.channel, err = conn.Channel(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.channel.QueueDeclare(harness.RequestQueue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	for _, operation := range []string{"get", "delete"} {
		if err := s.channel.QueueBind(harness.RequestQueue, "rpc.user."+operation, "amq.topic", false, nil); err != nil {
			t.Fatal(err)
		}
	}
	requests, err := s.channel.Consume(harness.RequestQueue, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for d := range requests {
			s.handle(&d)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
	u, err := url.Parse(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Host = "127.0.0.1:" + s.proxy.Port()
	return u.String()
}

func (s *scriptedService) handle(d *amqp.Delivery) {
	args, _, _ := msgp.ReadMapStrIntfBytes(d.Body, nil)
	if asked := fmt.Sprint(args); asked != s.asked || d.RoutingKey == "rpc.user.get" { // in any order of the arguments
		s.asked, s.attempts, s.ids = asked, 0, make(map[string]bool)
	}
	s.attempts++
	s.ids[d.MessageId] = true
	failed := dict{"error": "invocation_failed", "message": "m", "retryable": true, "retry_after_ms": 100}
	switch do := args["do"]; {
	case do == "nothing":
	case do == "cut" && s.attempts == 1:
		s.proxy.Cut()
	case do == "fail" && s.attempts == 1:
		s.reply(d, failed)
	case do == "fail_for_long":
		failed["retry_after_ms"] = 60_000
		s.reply(d, failed)
	case do == "refuse":
		failed["retryable"] = false
		s.reply(d, failed)
	case do == "unbind_create":
		s.channel.QueueUnbind(harness.RequestQueue, createKey, "amq.topic", nil)
		s.proxy.Cut()
	default:
		if do == "bind_create" {
			s.channel.QueueBind(harness.RequestQueue, createKey, "amq.topic", false, nil)
		}
		left, err := strconv.Atoi(d.Expiration)
		s.reply(d, dict{"result": dict{
			"attempts": s.attempts, "ids": len(s.ids), "id": d.MessageId, "user_id": d.UserId == s.login, "app_id": d.AppId,
			"seconds_left": err == nil && left > 1000 && left <= 30_000, "delivery_mode": int(d.DeliveryMode),
		}})
	}
}

func (s *scriptedService) reply(d *amqp.Delivery, reply dict) {
	s.channel.Publish("", d.ReplyTo, false, false, amqp.Publishing{CorrelationId: d.CorrelationId, Body: harness.Pack(reply)})
}
