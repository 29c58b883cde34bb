package integration_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/partition"
)

// A storeThatHangs neither finds users nor commits writes, until it is aborted.
type storeThatHangs struct {
	cluster.Store
	requests atomic.Int32
	abort    func()
	aborted  chan struct{}
}

func newStoreThatHangs(s cluster.Store) *storeThatHangs {
	h := &storeThatHangs{Store: s, aborted: make(chan struct{})}
	h.abort = sync.OnceFunc(func() { close(h.aborted); s.Abort() })
	return h
}

func (s *storeThatHangs) hang(requests int) error {
	s.requests.Add(int32(requests))
	<-s.aborted
	return context.Canceled
}

func (s *storeThatHangs) Find(context.Context, *actor.Lookup) (*actor.User, error) {
	return nil, s.hang(1)
}

func (s *storeThatHangs) Commit(_ context.Context, _ partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
	return nil, s.hang(len(writes))
}

func (s *storeThatHangs) Abort() { s.abort() }

// TestDeliveryLimit has requests come back to a shared queue with a delivery limit, once more
// than the limit allows.
func TestDeliveryLimit(t *testing.T) {
	const limit = 4
	s := newSetup(t)
	stop := s.run()
	s.commit(100)
	s.options.Cache = nil // so that the read reaches the store
	stop()
	if _, err := s.channel.QueueDelete("glotpod.rpc/ident", false, false, false); err != nil {
		t.Fatal(err)
	}
	_, err := s.channel.QueueDeclare("glotpod.rpc/ident", true, false, false, false, amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": limit})
	if err == nil {
		err = s.channel.QueueBind("glotpod.rpc/ident", "rpc.user.#", "amq.topic", false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	replies, err := s.channel.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	requests := map[string]map[string]any{
		"get":    {"user_id": 1},
		"patch":  {"user_id": 100, "ops": []any{}},
		"create": {"name": "Grace", "email": "grace", "github": map[string]any{"id": 2, "access_token": "t"}},
	}
	for operation, arguments := range requests {
		err := s.channel.Publish("amq.topic", "rpc.user."+operation, true, false, amqp.Publishing{
			MessageId: operation, CorrelationId: operation, ReplyTo: "amq.rabbitmq.reply-to", Body: pack(arguments),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range limit {
		s.bringBack(len(requests))
	}

	hanging := newStoreThatHangs(openStore(t, s.database))
	s.options.Store, s.options.Grace = hanging, 100*time.Millisecond
	_, stop = s.launch()
	s.until("all requests are being carried out", func() bool { return int(hanging.requests.Load()) == len(requests) })
	stop()

	s.options.Store, s.options.Grace = openStore(t, s.database), 20*time.Second
	s.run()
	for len(requests) > 0 {
		reply := s.next(replies) // perhaps another one to a copy
		s.result(reply.Body, nil)
		delete(requests, reply.CorrelationId)
	}
}

// bringBack takes requests out of the shared queue, and leaves them to the broker.
func (s *setup) bringBack(requests int) {
	s.t.Helper()
	conn, err := amqp.Dial(s.vhost.URL())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err == nil {
		err = channel.Qos(requests, 0, false)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	deliveries, err := channel.Consume("glotpod.rpc/ident", "", false, false, false, false, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for range requests {
		s.next(deliveries)
	}
}
