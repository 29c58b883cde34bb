package integration_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"
	"go.uber.org/zap"
)

// BenchmarkCall measures requests over the broker to an instance in the same
// process, with 1 and 64 in flight, next to a bare echo that is called in the same
// way.
func BenchmarkCall(b *testing.B) {
	s := newSetup(b)
	s.options.Log = zap.NewNop()
	s.run()
	const users = 1000
	for id := range int64(users) {
		s.commit(id + 1)
	}
	client := s.client()
	echo := newSetup(b) // a virtual host without an instance
	echo.echo()
	echoClient := echo.client()

	var n atomic.Int64
	for name, request := range map[string]func() map[string]any{
		"echo": func() map[string]any { return map[string]any{"user_id": n.Add(1)%users + 1} },
		"get":  func() map[string]any { return map[string]any{"user_id": n.Add(1)%users + 1} },
		"patch": func() map[string]any {
			i := n.Add(1)
			return map[string]any{"user_id": i%users + 1, "ops": []any{
				map[string]any{"op": "replace", "path": "/name", "value": fmt.Sprint("Ada ", i)}}}
		},
	} {
		for _, inFlight := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", name, inFlight), func(b *testing.B) {
				var left atomic.Int64
				left.Store(int64(b.N))
				done := make(chan error, inFlight)
				client := client
				if name == "echo" {
					client = echoClient
				}
				b.ResetTimer()
				for range inFlight {
					go func() {
						var err error
						for left.Add(-1) >= 0 && err == nil {
							body, _ := msgp.AppendMapStrIntf(nil, request())
							_, err = client.Call(b.Context(), name, "", body)
						}
						done <- err
					}()
				}
				for range inFlight {
					if err := <-done; err != nil {
						b.Error(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
			})
		}
	}
}

// echo replies to requests with a fixed body of the size of a user.
func (s *setup) echo() {
	channel := s.channel
	if _, err := channel.QueueDeclare("echo", true, false, false, false, nil); err != nil {
		s.t.Fatal(err)
	}
	if err := channel.QueueBind("echo", "rpc.user.echo", "amq.topic", false, nil); err != nil {
		s.t.Fatal(err)
	}
	channel.Qos(256, 0, false)
	requests, err := channel.Consume("echo", "", false, false, false, false, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	body := make([]byte, 120)
	go func() {
		for d := range requests {
			channel.Publish("", d.ReplyTo, false, false, amqp.Publishing{CorrelationId: d.CorrelationId, Body: body})
			d.Ack(false)
		}
	}()
}
