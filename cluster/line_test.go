package cluster

import (
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/deploy/testservers"
)

func dial(t *testing.T, url string) *amqp.Connection {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(10 * time.Second)) })
	return conn
}

func TestALineIsCancelledWhileAnswersAreSentAndNeitherCostsTheConnection(t *testing.T) {
	conn := dial(t, testservers.RabbitMQ(t).URL())
	lost := conn.NotifyClose(make(chan *amqp.Error, 1))
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	queue, err := channel.QueueDeclare("", false, false, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		l, err := openLine(conn, queue.Name, 10)
		if err == nil {
			err = l.consume(true)
		}
		if err != nil {
			t.Fatal(err)
		}
		var senders sync.WaitGroup
		sending := make(chan struct{}, 100)
		for range 4 {
			senders.Go(func() {
				for l.publish(t.Context(), "nobody", amqp.Publishing{Body: make([]byte, 100)}) == nil {
					select {
					case sending <- struct{}{}:
					default:
					}
				}
			})
		}
		<-sending
		if err := l.cancel(); err != nil {
			t.Errorf("cancelling: %v", err)
		}
		for range l.deliveries {
		}
		l.close()
		senders.Wait()
	}
	select {
	case cause := <-lost:
		t.Errorf("the connection is lost: %v", cause)
	default:
	}
}
