package consume

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/deploy/testservers"
)

// TestReceive has a backlog of large bodies received within a budget.
func TestReceive(t *testing.T) {
	for _, queueType := range []string{topology.Quorum, topology.Classic} {
		t.Run("large_bodies_are_bounded_and_in_order/"+queueType, func(t *testing.T) { testLargeBodies(t, queueType) })
	}
	t.Run("small_bodies_raise_the_prefetch_count", testRaise)
}

func testLargeBodies(t *testing.T, queueType string) {
	const prefetch, total, size, budget = 32, 100, 64 << 10, 256 << 10
	conn := dial(t, testservers.RabbitMQ(t).URL())
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	q, err := channel.QueueDeclare("large", true, false, false, false, topology.PartitionArguments(queueType))
	if err != nil {
		t.Fatal(err)
	}
	for i := range total {
		if err := channel.Publish("", q.Name, false, false, amqp.Publishing{MessageId: fmt.Sprint(i), Body: make([]byte, size)}); err != nil {
			t.Fatal(err)
		}
	}
	b := NewBudget(budget)
	closing := new(sync.WaitGroup)
	defer closing.Wait()
	over := make(chan struct{}) // until then no request is completed
	var full sync.Once
	pool := NewPool(Over(conn), prefetch, 1, closing)
	var held, peak, next atomic.Int64 // bytes in flight and waiting; the number of the next request
	var changes []int
	for current := prefetch; next.Load() < total; {
		c, err := pool.GetWith(q.Name, current)
		if err == nil {
			err = c.Start(queueType == topology.Classic)
		}
		if err != nil {
			t.Fatal(err)
		}
		current = c.Receive(t.Context(), b, prefetch, func(d amqp.Delivery, _ time.Time, bytes int) {
			c.Requests.Add(1)
			peak.Store(max(peak.Load(), held.Add(size)+b.waiting.Load()))
			if want := fmt.Sprint(next.Add(1) - 1); d.MessageId != want {
				t.Errorf("%s came instead of %s", d.MessageId, want)
			}
			last := next.Load() == total
			if held.Load() == budget {
				full.Do(func() { time.AfterFunc(100*time.Millisecond, func() { close(over) }) }) // others wait meanwhile
			}
			go func() {
				<-over
				if last {
					c.Cancel()
				}
				held.Add(-size)
				b.Release(b.Weight(bytes))
				c.Ack(&d, true)
				c.Requests.Done()
			}()
		})
		c.Requests.Wait()
		pool.Put(c)
		changes = append(changes, current)
	}
	if changes[0] > budget/size {
		t.Errorf("the prefetch counts were %v", changes)
	}
	if p := peak.Load(); p > 2*budget || b.waiting.Load() != 0 {
		t.Errorf("%d bytes were held, %d wait in the end", p, b.waiting.Load())
	}
	t.Logf("prefetch counts: %v", changes)
}

// After ten seconds of small bodies the consumer is cancelled in favour of one with a higher
// prefetch count, at most the usual one.
func testRaise(t *testing.T) {
	begun := time.Now()
	b := NewBudget(1 << 20)
	b.prefetch.Add(64) // another consumer has as much
	for name, test := range map[string]struct {
		largest int
		after   time.Duration
		want    int
	}{
		"soon":             {100, raiseEvery - 1, 0},
		"small":            {100, raiseEvery, 32},
		"rather_small":     {64 << 10, raiseEvery, 8},
		"not_small_enough": {256 << 10, raiseEvery, 0},
	} {
		t.Run(name, func(t *testing.T) {
			channel := &cancelledChannel{cancelled: make(chan struct{}), once: new(sync.Once)}
			c := newConsumer(idleChannel{channel: channel, prefetch: 4}, "queue")
			r := &reception{consumer: c, budget: b, full: 32, since: begun}
			r.maybeRaise(test.largest, begun.Add(time.Second))
			r.maybeRaise(1, begun.Add(test.after))
			r.cancelling.Wait()
			if r.next != test.want {
				t.Errorf("the next prefetch count is %d", r.next)
			}
			select {
			case <-channel.cancelled:
				if test.want == 0 {
					t.Error("the consumer was cancelled")
				}
			default:
				if test.want != 0 {
					t.Error("the consumer was not cancelled")
				}
			}
		})
	}
}

// A cancelledChannel notes that a consumer was cancelled. Its Channel may be nil.
type cancelledChannel struct {
	Channel
	cancelled chan struct{}
	once      *sync.Once
}

func (c *cancelledChannel) Cancel(tag string, noWait bool) error {
	c.once.Do(func() { close(c.cancelled) })
	if c.Channel == nil {
		return nil
	}
	return c.Channel.Cancel(tag, noWait)
}

func TestSize(t *testing.T) {
	long := strings.Repeat("x", 2000)
	for name, d := range map[string]amqp.Delivery{
		"body":           {Body: []byte(long)},
		"header":         {Headers: amqp.Table{"h": long}},
		"bytes":          {Headers: amqp.Table{"h": []byte(long)}},
		"name_of_header": {Headers: amqp.Table{long: nil}},
		"table":          {Headers: amqp.Table{"h": amqp.Table{"h": long}}},
		"array":          {Headers: amqp.Table{"h": []any{amqp.Table{"h": []any{long}}}}},
		"many_values":    {Headers: amqp.Table{"h": make([]any, 63)}},
	} {
		t.Run(name, func(t *testing.T) {
			if n := Size(&d); n < 2000 || n > 2200 {
				t.Errorf("it counts %d bytes", n)
			}
		})
	}
	if n := Size(&amqp.Delivery{Headers: amqp.Table{"x-delivery-count": int64(1)}}); n != 0 {
		t.Errorf("an empty message that is delivered again counts %d bytes", n)
	}
}
