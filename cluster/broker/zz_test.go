package broker

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/deploy/testenv"
)

func TestZZ(t *testing.T) {
	b := testenv.RabbitMQ(t)
	const n = 200000
	pub := mustDial(t, optionsFor(b))
	for round := range 6 {
		var conn *amqp.Connection
		name := "bare"
		if round%2 == 0 {
			conn, _ = amqp.Dial(b.URL())
		} else {
			name = "filtered"
			o := optionsFor(b); o.MaxBody = 1 << 20
			conn = mustDial(t, o)
		}
		pch := mustChannel(t, pub)
		q, _ := pch.QueueDeclare("", false, false, false, false, nil)
		pch.Confirm(false)
		var last *amqp.DeferredConfirmation
		for range n {
			last, _ = pch.PublishWithDeferredConfirm("", q.Name, false, false, amqp.Publishing{Body: make([]byte, 200), ReplyTo: "x", CorrelationId: "0123456789abcdef", Headers: amqp.Table{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}})
		}
		last.Wait()
		ch := mustChannel(t, conn)
		ds, _ := ch.Consume(q.Name, "", true, false, false, false, nil)
		s := time.Now()
		for range n { <-ds }
		t.Logf("%s %.0f/s", name, n/time.Since(s).Seconds())
		conn.Close()
	}
}
