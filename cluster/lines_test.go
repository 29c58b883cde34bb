package cluster

import (
	"fmt"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/deploy/testservers"
)

// linesSite has lines to a queue.
func linesSite(t *testing.T) (x *lines, queue string, publish func(body string)) {
	t.Helper()
	running := new(sync.WaitGroup)
	t.Cleanup(running.Wait) // once the connection is closed
	conn := dial(t, testservers.RabbitMQ(t).URL())
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	q, err := channel.QueueDeclare("", false, false, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return openLines(conn, 10, 64, running), q.Name, func(body string) {
		if err := channel.Publish("", q.Name, false, false, amqp.Publishing{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
}

// begin returns a line that is consumed.
func (x *lines) begin(t *testing.T, queue string) *line {
	t.Helper()
	l, err := x.get(queue)
	if err == nil {
		err = l.consume(true)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// takeOne takes a request from a line.
func (l *line) takeOne(t *testing.T) amqp.Delivery {
	t.Helper()
	select {
	case d := <-l.deliveries:
		l.acks.take(d.DeliveryTag)
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("nothing comes")
		return amqp.Delivery{}
	}
}

func (l *line) stop(t *testing.T) {
	t.Helper()
	if err := l.cancel(); err != nil {
		t.Fatal(err)
	}
	for range l.deliveries {
	}
}

func TestALineThatIsPutBackIsUsedAgainForAnotherQueue(t *testing.T) {
	x, queue, publish := linesSite(t)
	var before *amqp.Channel
	for _, body := range []string{"one", "two", "three"} {
		l := x.begin(t, queue)
		if before != nil && l.channel != before {
			t.Error("it is another channel")
		}
		before = l.channel
		publish(body)
		d := l.takeOne(t)
		if string(d.Body) != body {
			t.Errorf("%q has come instead of %q", d.Body, body)
		}
		l.acks.add(d.DeliveryTag, false) // which waits for others
		l.stop(t)
		x.put(l)
		if err := l.publish(t.Context(), queue, amqp.Publishing{}); err != amqp.ErrClosed {
			t.Errorf("what is sent on a line that was put back: %v", err)
		}
	}
	if len(x.spare) != spareLines {
		t.Errorf("%d are kept", len(x.spare))
	}
}

func TestWhatWasNotAcknowledgedOnALineComesAgainWhenItIsPutBack(t *testing.T) {
	x, queue, publish := linesSite(t)
	l := x.begin(t, queue)
	publish("given up")
	l.takeOne(t)
	l.stop(t)
	x.put(l)
	if !l.channel.IsClosed() {
		t.Error("its channel is open still")
	}
	if d := x.begin(t, queue).takeOne(t); string(d.Body) != "given up" || !d.Redelivered {
		t.Errorf("%q has come", d.Body)
	}
}

func TestNoMoreLinesAreKeptThanAreOfUse(t *testing.T) {
	x, queue, _ := linesSite(t)
	var all []*line
	for range 2 * spareLines {
		l, err := x.get(queue)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	for _, l := range all {
		x.put(l)
		x.put(l) // changes nothing
	}
	x.running.Wait()
	open := 0
	for _, l := range all {
		if !l.channel.IsClosed() {
			open++
		}
	}
	if open != spareLines || len(x.spare) != spareLines {
		t.Errorf("%d channels are open, %d are kept", open, len(x.spare))
	}
}

func TestALineThatTheBrokerHasClosedIsNotUsedAgain(t *testing.T) {
	x, queue, _ := linesSite(t)
	for _, p := range x.spare[1:] {
		if _, err := p.channel.QueueDeclarePassive("no such queue", false, false, false, false, nil); err == nil {
			t.Fatal("there is such a queue")
		}
	}
	first := x.spare[0].channel
	if l := x.begin(t, queue); l.channel != first {
		t.Error("it is another channel than the one that is left")
	}
}

// A backlog goes from one consumer to the next, again and again, as when partitions move
// under load, and grows meanwhile. Each takes up where the one before has stopped.
func TestABacklogKeepsItsOrderWhenItsConsumersTakeTurns(t *testing.T) {
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
	running := new(sync.WaitGroup)
	owners := []*lines{openLines(dial(t, url), prefetch, 1, running), openLines(dial(t, url), prefetch, 1, running)}
	next, turns := 0, 0
	for ; next < total; turns++ {
		x := owners[turns%2]
		l, err := x.get(q.Name)
		if err == nil {
			err = l.consume(false)
		}
		if err != nil {
			t.Fatal(err)
		}
		take := func(d amqp.Delivery) {
			if want := fmt.Sprintf("%04d", next); string(d.Body) != want {
				t.Fatalf("in turn %d came %s instead of %s", turns, d.Body, want)
			}
			next++
			l.acks.take(d.DeliveryTag)
			l.acks.add(d.DeliveryTag, false)
		}
		for range min(prefetch-2, total-next) {
			select {
			case d := <-l.deliveries:
				take(d)
			case <-time.After(10 * time.Second):
				t.Fatalf("nothing comes in turn %d after %d", turns, next)
			}
		}
		cancelled := make(chan error, 1)
		go func() { cancelled <- l.cancel() }()
		for d := range l.deliveries {
			take(d)
		}
		if err := <-cancelled; err != nil {
			t.Fatal(err)
		}
		x.put(l)
		time.Sleep(50 * time.Millisecond) // what is taken back comes first, if it is given time
	}
	running.Wait()
	t.Logf("%d turns", turns)
}
