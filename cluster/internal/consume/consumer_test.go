package consume

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

func TestMain(m *testing.M) { testservers.Main(m) }

// TestCancelWhileReplying cancels consumers while replies are sent on their channels:
// neither costs the connection.
func TestCancelWhileReplying(t *testing.T) {
	endManyConsumers(t, func(c *Consumer) {
		var senders sync.WaitGroup
		sending := make(chan struct{}, 100)
		for range 4 {
			senders.Go(func() {
				for c.Publish(t.Context(), "nobody", amqp.Publishing{Body: make([]byte, 100)}) == nil {
					select {
					case sending <- struct{}{}:
					default:
					}
				}
			})
		}
		<-sending
		if err := c.Cancel(); err != nil {
			t.Errorf("cancelling: %v", err)
		}
		for range c.Deliveries {
		}
		c.Close()
		senders.Wait()
	})
}

// TestCancelWhileClosing cancels consumers twice while their channels are closed: that does
// not cost the connection.
func TestCancelWhileClosing(t *testing.T) {
	endManyConsumers(t, func(c *Consumer) {
		var ending sync.WaitGroup
		ending.Go(func() { c.Cancel() })
		ending.Go(c.Close)
		ending.Go(func() { c.Cancel() })
		ending.Wait()
	})
}

// endManyConsumers starts consumers one after another, and ends each by end. The connection must
// not be lost.
func endManyConsumers(t *testing.T, end func(*Consumer)) {
	t.Helper()
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
		c, err := Open(Over(conn), queue.Name, 10)
		if err == nil {
			err = c.Start(true)
		}
		if err != nil {
			t.Fatal(err)
		}
		end(c)
	}
	if _, err := channel.QueueDeclarePassive(queue.Name, false, false, true, false, nil); err != nil {
		t.Errorf("the connection is of no use: %v", err)
	}
	select {
	case cause := <-lost:
		t.Errorf("the connection was lost: %v", cause)
	default:
	}
}
