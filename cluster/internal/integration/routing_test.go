package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/partition"
)

func (s *setup) queueOf(number int) string { return fmt.Sprintf("glotpod.rpc/ident/%04d", number) }

// getDirect gets a user, which must exist, by the direct exchange.
func (s *setup) getDirect(client *caller, id int64) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	s.result(client.CallDirect(ctx, id, "get", "", pack(map[string]any{"user_id": id})))
}

func pack(v map[string]any) []byte {
	body, err := msgp.AppendMapStrIntf(nil, v)
	if err != nil {
		panic(err)
	}
	return body
}

// result returns the result of a reply, which must not be an error reply.
func (s *setup) result(answer []byte, err error) any {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	v, _, err := msgp.ReadMapStrIntfBytes(answer, nil)
	if err != nil || v["error"] != nil {
		s.t.Fatal(v, err)
	}
	return v["result"]
}

func (s *setup) report() membership.Report {
	s.t.Helper()
	conn, err := amqp.Dial(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	reports, err := membership.AskStatus(s.t.Context(), conn)
	if err != nil || len(reports) != 1 {
		s.t.Fatal(reports, err)
	}
	return reports[0]
}

// TestRouting sends requests to an instance by the direct exchange and partition queues.
func TestRouting(t *testing.T) {
	t.Parallel()
	t.Run("a_deleted_partition_queue_is_served_again", testDeletedPartitionQueue)
	t.Run("misrouted_requests_are_replied_to_until_the_queues_are_rebound", testMisrouted)
	t.Run("queues_out_of_order_are_noticed_without_requests", testMisroutedProbes)
	t.Run("a_client_does_not_choose_the_id_of_a_new_user", testForgedUserID)
}

func testDeletedPartitionQueue(t *testing.T) {
	s := newSetup(t)
	s.options.Insist = true // RabbitMQ may close the connection over a queue that is being deleted
	s.run()
	s.commit(1)
	client := s.client()
	s.getDirect(client, 1)
	number := partition.Of(1, s.options.Partitions)
	if _, err := s.channel.QueueDelete(s.queueOf(number), false, false, false); err != nil {
		t.Fatal(err)
	}
	s.until("the queue is there and consumed", func() bool { return s.consumers(s.queueOf(number)) == 1 })
	s.getDirect(client, 1)
}

// disorders are ways to break the direct exchange.
var disorders = map[string]func(*setup){
	// Queues that are bound again come last, and all others move up.
	"moved": func(s *setup) {
		for _, number := range []int{0, 3} {
			s.unbind(number, "1")
			s.bind(number, "1")
		}
	},
	// The exchange loses a queue's place, and the broker lists the binding still.
	"emptied": func(s *setup) {
		for number := range s.options.Partitions {
			s.bind(number, "2")
			s.unbind(number, "2")
		}
	},
	"one_lost": func(s *setup) {
		s.bind(5, "7")
		s.unbind(5, "7")
	},
	"unbound": func(s *setup) {
		for number := range s.options.Partitions {
			s.unbind(number, "1")
		}
	},
}

func (s *setup) bind(number int, weight string) {
	s.t.Helper()
	if err := s.channel.QueueBind(s.queueOf(number), weight, "glotpod.ident", false, nil); err != nil {
		s.t.Fatal(err)
	}
}

func (s *setup) unbind(number int, weight string) {
	s.t.Helper()
	if err := s.channel.QueueUnbind(s.queueOf(number), weight, "glotpod.ident", nil); err != nil {
		s.t.Fatal(err)
	}
}

func testMisrouted(t *testing.T) {
	for name, disorder := range disorders {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t)
			s.options.Partitions = 8
			s.run()
			s.commitMany()
			client := s.client()
			disorder(s)
			s.getAllDirect(client)
			if s.report().Counters.Misrouted == 0 {
				t.Fatal("nothing was misrouted")
			}
			s.untilRouted(client)
		})
	}
}

// testMisroutedProbes breaks the exchange while no instance runs.
func testMisroutedProbes(t *testing.T) {
	s := newSetup(t)
	s.options.Partitions = 8
	stop := s.run()
	stop()
	s.commitMany()
	disorders["emptied"](s)
	s.run()
	s.until("probes come to the wrong queues", func() bool { return s.report().Counters.Misrouted > 0 })
	s.untilRouted(s.client())
}

const manyUsers = 40

func (s *setup) commitMany() {
	s.t.Helper()
	for id := range int64(manyUsers) {
		s.commit(id + 1)
	}
}

// getAllDirect gets all users by the direct exchange.
func (s *setup) getAllDirect(client *caller) {
	s.t.Helper()
	var calls sync.WaitGroup
	for id := range int64(manyUsers) {
		calls.Go(func() {
			answer, err := client.CallDirect(s.t.Context(), id+1, "get", "", pack(map[string]any{"user_id": id + 1}))
			if v, _, bad := msgp.ReadMapStrIntfBytes(answer, nil); err != nil || bad != nil || v["error"] != nil {
				s.t.Error(id+1, v, err, bad)
			}
		})
	}
	calls.Wait()
}

// untilRouted waits until the direct exchange leads to the right queues.
func (s *setup) untilRouted(client *caller) {
	s.t.Helper()
	s.until("nothing is misrouted any more", func() bool {
		before := s.report().Counters.Misrouted
		s.getAllDirect(client)
		return s.report().Counters.Misrouted == before
	})
}

func testForgedUserID(t *testing.T) {
	s := newSetup(t)
	s.run()
	number := partition.Of(77, s.options.Partitions)
	answers, err := s.channel.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = s.channel.Publish("", s.queueOf(number), false, false, amqp.Publishing{
		Type:          "rpc.user.create",
		ReplyTo:       "amq.rabbitmq.reply-to",
		CorrelationId: "1",
		Headers:       amqp.Table{"ident-user": append([]byte{0, 0, 0, 0, 0, 0, 0, 77}, make([]byte, 16)...)},
		Body:          pack(map[string]any{"name": "Eve", "email": "e", "github": map[string]any{"id": 1, "access_token": "t"}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	result := s.result(s.next(answers).Body, nil).(map[string]any)
	if fmt.Sprint(result["user_id"]) != "1" {
		t.Errorf("%v", result)
	}
}
