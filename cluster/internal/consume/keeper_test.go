package consume

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/deploy/testservers"
)

// A keeping is a Keeper of a queue at a broker. Each request is answered when the test
// takes it from received.
type keeping struct {
	t        *testing.T
	keeper   *Keeper
	channel  *amqp.Channel // of another connection
	queue    string
	received chan received
	lost     chan error // what OnLost got
	found    chan struct{}
	opened   atomic.Int32 // consumers
	outdated atomic.Bool  // the next consumer is to be outdated before it starts
}

type received struct {
	consumer *Consumer
	delivery amqp.Delivery
	complete func()
}

// keep starts a Keeper of a queue that exists.
func keep(t *testing.T) *keeping {
	t.Helper()
	url := testservers.RabbitMQ(t).URL()
	conn := dial(t, url)
	channel, err := dial(t, url).Channel()
	if err != nil {
		t.Fatal(err)
	}
	x := &keeping{t: t, channel: channel, queue: "kept", received: make(chan received, 10), lost: make(chan error, 100), found: make(chan struct{}, 100)}
	x.keeper = NewKeeper(KeeperOptions{
		Open: func() (*Consumer, error) {
			c, err := Open(Over(conn), x.queue, 10)
			if err != nil {
				return nil, err
			}
			if x.opened.Add(1); x.outdated.CompareAndSwap(true, false) {
				x.keeper.Replace()
			}
			return c, c.Start(false)
		},
		Receive: func(c *Consumer) bool {
			for d := range c.Deliveries {
				c.Track(&d)
				c.Requests.Add(1)
				complete := sync.OnceFunc(func() {
					c.Ack(&d, false)
					c.Requests.Done()
				})
				context.AfterFunc(t.Context(), complete) // also if the test has failed
				x.received <- received{c, d, complete}
			}
			return false
		},
		OnLost:  func(err error) { x.lost <- err },
		OnFound: func() { x.found <- struct{}{} },
	})
	x.declare()
	running := new(sync.WaitGroup)
	t.Cleanup(func() {
		conn.CloseDeadline(time.Now())
		x.keeper.Drain()
		running.Wait()
	})
	x.keeper.Start(t.Context(), running)
	return x
}

func (x *keeping) declare() {
	x.t.Helper()
	if _, err := x.channel.QueueDeclare(x.queue, true, false, false, false, nil); err != nil {
		x.t.Fatal(err)
	}
}

func (x *keeping) delete() {
	x.t.Helper()
	if _, err := x.channel.QueueDelete(x.queue, false, false, false); err != nil {
		x.t.Fatal(err)
	}
}

// next publishes a request and returns it as it was received.
func (x *keeping) next() received {
	x.t.Helper()
	if err := x.channel.Publish("", x.queue, false, false, amqp.Publishing{}); err != nil {
		x.t.Fatal(err)
	}
	return await(x.t, x.received)
}

func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("no %T", *new(T))
		return *new(T)
	}
}

func TestKeeper(t *testing.T) {
	t.Run("a_deleted_queue_is_consumed_when_it_is_back", func(t *testing.T) {
		x := keep(t)
		r := x.next()
		x.delete()
		await(t, x.lost)
		if err := await(t, x.lost); !broker.IsCode(err, amqp.NotFound) || x.keeper.Err() == nil {
			t.Errorf("it is not consumed because of %v", err)
		}
		answers, err := x.channel.QueueDeclare("", false, false, true, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.consumer.Publish(t.Context(), answers.Name, amqp.Publishing{}); err != nil {
			t.Errorf("a request that was received before gets no reply: %v", err)
		}
		r.complete()
		x.declare()
		await(t, x.found)
		x.next().complete()
		if err := x.keeper.Err(); err != nil {
			t.Errorf("it is consumed: %v", err)
		}
	})

	t.Run("a_channel_that_the_broker_closes_is_replaced", func(t *testing.T) {
		x := keep(t)
		r := x.next()
		r.consumer.idle.channel.Ack(r.delivery.DeliveryTag+100, false) // which is unknown
		if err := await(t, x.lost); !broker.IsCode(err, amqp.PreconditionFailed) {
			t.Errorf("it is not consumed because of %v", err)
		}
		r.complete()
		if again := await(t, x.received); !again.delivery.Redelivered {
			t.Error("the request is another one")
		} else {
			again.complete()
		}
	})

	t.Run("a_replaced_consumer_completes_its_requests_beside_the_next_one", func(t *testing.T) {
		x := keep(t)
		first := x.next()
		x.keeper.Replace()
		x.keeper.Replace()
		second := x.next()
		if second.consumer == first.consumer || second.delivery.Redelivered {
			t.Error("the consumer was not replaced")
		}
		first.complete()
		second.complete()
		if len(x.lost) > 0 || x.keeper.Err() != nil {
			t.Errorf("a consumer counts as lost: %v", x.keeper.Err())
		}
		x.keeper.Drain()
		if q, err := x.channel.QueueDeclarePassive(x.queue, true, false, false, false, nil); err != nil || q.Messages > 0 {
			t.Errorf("%d requests are left, %v", q.Messages, err)
		}
	})

	t.Run("a_consumer_that_was_outdated_before_it_started_is_replaced", func(t *testing.T) {
		x := keep(t)
		x.next().complete()
		x.outdated.Store(true)
		x.keeper.Replace()
		for deadline := time.Now().Add(20 * time.Second); x.opened.Load() < 3; {
			x.next().complete() // by a consumer that is not cancelled yet
			if time.Now().After(deadline) {
				t.Fatalf("%d consumers were opened, want 3", x.opened.Load())
			}
		}
	})

	t.Run("a_drain_waits_for_the_requests_of_all_consumers", func(t *testing.T) {
		x := keep(t)
		requests := []received{x.next()}
		x.delete()
		await(t, x.lost)
		x.declare()
		await(t, x.found)
		requests = append(requests, x.next())
		drained := make(chan struct{})
		go func() { defer close(drained); x.keeper.Drain() }()
		for i, r := range requests {
			select {
			case <-drained:
				t.Fatalf("it is drained after %d requests", i)
			case <-time.After(10 * time.Millisecond):
			}
			r.complete()
		}
		await(t, drained)
		if q, err := x.channel.QueueDeclarePassive(x.queue, true, false, false, false, nil); err != nil || q.Consumers+q.Messages > 0 {
			t.Errorf("the queue has %v, %v", q, err)
		}
	})

	t.Run("a_drain_does_not_wait_for_a_queue_that_is_away", func(t *testing.T) {
		x := keep(t)
		x.next().complete()
		x.delete()
		await(t, x.lost)
		x.keeper.Drain()
		x.declare()
		if q, err := x.channel.QueueDeclarePassive(x.queue, true, false, false, false, nil); err != nil || q.Consumers > 0 {
			t.Errorf("the queue has %v, %v", q, err)
		}
	})
}
