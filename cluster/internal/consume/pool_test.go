package consume

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/deploy/testservers"
)

// newPool returns a pool, and a queue with a function that publishes to it.
func newPool(t *testing.T) (x *Pool, queue string, publish func(body string)) {
	t.Helper()
	closing := new(sync.WaitGroup)
	t.Cleanup(closing.Wait) // once the connection is closed
	conn := dial(t, testservers.RabbitMQ(t).URL())
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	q, err := channel.QueueDeclare("", false, false, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return NewPool(Over(conn), 10, 64, closing), q.Name, func(body string) {
		if err := channel.Publish("", q.Name, false, false, amqp.Publishing{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
}

// start returns a consumer that takes requests.
func (p *Pool) start(t *testing.T, queue string) *Consumer {
	t.Helper()
	c, err := p.Get(queue)
	if err == nil {
		err = c.Start(true)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// takeOne takes one delivery.
func (c *Consumer) takeOne(t *testing.T) amqp.Delivery {
	t.Helper()
	select {
	case d := <-c.Deliveries:
		c.Track(&d)
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is delivered")
		return amqp.Delivery{}
	}
}

// stop cancels a consumer and waits until it has ended.
func (c *Consumer) stop(t *testing.T) {
	t.Helper()
	if err := c.Cancel(); err != nil {
		t.Fatal(err)
	}
	for range c.Deliveries {
	}
}

func TestPool(t *testing.T) {
	t.Run("a_channel_is_used_again_for_another_queue", func(t *testing.T) {
		p, queue, publish := newPool(t)
		var before Channel
		for _, body := range []string{"one", "two", "three"} {
			c := p.start(t, queue)
			if before != nil && c.idle.channel != before {
				t.Error("it is another channel")
			}
			before = c.idle.channel
			publish(body)
			d := c.takeOne(t)
			if string(d.Body) != body {
				t.Errorf("%q was delivered instead of %q", d.Body, body)
			}
			c.Ack(&d, false) // which waits for others
			c.stop(t)
			p.Put(c)
			if err := c.Publish(t.Context(), queue, amqp.Publishing{}); !errors.Is(err, amqp.ErrClosed) {
				t.Errorf("publishing after Put returned %v", err)
			}
		}
		if len(p.idle) != maxIdle {
			t.Errorf("%d channels are idle", len(p.idle))
		}
	})

	t.Run("what_was_not_acknowledged_comes_again", func(t *testing.T) {
		p, queue, publish := newPool(t)
		c := p.start(t, queue)
		publish("left")
		c.takeOne(t)
		c.stop(t)
		p.Put(c)
		if !c.idle.channel.IsClosed() {
			t.Error("its channel is still open")
		}
		if d := p.start(t, queue).takeOne(t); string(d.Body) != "left" || !d.Redelivered {
			t.Errorf("%q was delivered", d.Body)
		}
	})

	t.Run("idle_channels_are_limited", func(t *testing.T) {
		p, queue, _ := newPool(t)
		var all []*Consumer
		for range 2 * maxIdle {
			c, err := p.Get(queue)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		for _, c := range all {
			p.Put(c)
			p.Put(c) // changes nothing
		}
		p.closing.Wait()
		open := 0
		for _, c := range all {
			if !c.idle.channel.IsClosed() {
				open++
			}
		}
		if open != maxIdle || len(p.idle) != maxIdle {
			t.Errorf("%d channels are open, and %d are idle", open, len(p.idle))
		}
	})

	t.Run("a_closed_channel_is_not_used_again", func(t *testing.T) {
		p, queue, _ := newPool(t)
		for _, idle := range p.idle[1:] {
			if _, err := idle.channel.(*amqp.Channel).QueueDeclarePassive("no such queue", false, false, false, false, nil); err == nil {
				t.Fatal("there is such a queue")
			}
		}
		first := p.idle[0].channel
		if c := p.start(t, queue); c.idle.channel != first {
			t.Error("it is not the channel that is still open")
		}
	})
}

// TestBacklogKeepsItsOrder moves a growing backlog from one consumer to the next and back,
// as when partitions move under load. Each consumer continues where the last one stopped.
func TestBacklogKeepsItsOrder(t *testing.T) {
	const prefetch, total = 32, 1500
	url := testservers.RabbitMQ(t).URL()
	channel, err := dial(t, url).Channel()
	if err != nil {
		t.Fatal(err)
	}
	q, err := channel.QueueDeclare("backlog", true, false, false, false, topology.PartitionArguments(topology.Quorum))
	if err != nil {
		t.Fatal(err)
	}
	var publishing sync.WaitGroup
	defer publishing.Wait()
	publishing.Go(func() {
		for i := range total {
			if err := channel.Publish("", q.Name, false, false, amqp.Publishing{Body: fmt.Appendf(nil, "%04d", i)}); err != nil {
				t.Error(err)
				return
			}
			if i%20 == 0 {
				time.Sleep(5 * time.Millisecond)
			}
		}
	})
	closing := new(sync.WaitGroup)
	owners := []*Pool{NewPool(Over(dial(t, url)), prefetch, 1, closing), NewPool(Over(dial(t, url)), prefetch, 1, closing)}
	next, turns := 0, 0
	for ; next < total; turns++ {
		p := owners[turns%2]
		c, err := p.Get(q.Name)
		if err == nil {
			err = c.Start(false)
		}
		if err != nil {
			t.Fatal(err)
		}
		take := func(d amqp.Delivery) {
			if want := fmt.Sprintf("%04d", next); string(d.Body) != want {
				t.Fatalf("in turn %d %s was delivered instead of %s", turns, d.Body, want)
			}
			next++
			c.Track(&d)
			c.Ack(&d, false)
		}
		for range min(prefetch-2, total-next) {
			select {
			case d := <-c.Deliveries:
				take(d)
			case <-time.After(10 * time.Second):
				t.Fatalf("nothing is delivered in turn %d after %d", turns, next)
			}
		}
		cancelled := make(chan error, 1)
		go func() { cancelled <- c.Cancel() }()
		for d := range c.Deliveries {
			take(d)
		}
		if err := <-cancelled; err != nil {
			t.Fatal(err)
		}
		p.Put(c)
	}
	closing.Wait()
	t.Logf("%d turns", turns)
}
