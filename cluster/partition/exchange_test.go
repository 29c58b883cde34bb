package partition_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/testservers"
)

// An exchange is a real consistent hash exchange, with queues that can be bound to it.
// The broker chooses the names of the queues, so they are in no order.
type exchange struct {
	t       *testing.T
	publish *amqp.Channel
	declare *amqp.Channel
	name    string
	queues  []string
	arrived chan arrival
}

// An arrival says which message has arrived in which queue.
type arrival struct{ message, queue int }

// newExchange makes an exchange and the given number of queues. None is bound yet.
func newExchange(t *testing.T, queues int) *exchange {
	t.Helper()
	broker := testservers.RabbitMQ(t)
	x := &exchange{t: t, name: "ring", arrived: make(chan arrival)}
	var consumers sync.WaitGroup
	stop := make(chan struct{})
	t.Cleanup(consumers.Wait)
	x.publish, x.declare = open(t, broker), open(t, broker)
	t.Cleanup(func() { close(stop) })

	x.must(x.declare.ExchangeDeclare(x.name, "x-consistent-hash", false, true, false, false, nil))
	for n := range queues {
		queue, err := x.declare.QueueDeclare("", false, true, true, false, nil)
		x.must(err)
		x.queues = append(x.queues, queue.Name)
		deliveries, err := x.declare.Consume(queue.Name, "", true, true, false, false, nil)
		x.must(err)
		consumers.Go(func() {
			for d := range deliveries {
				select {
				case x.arrived <- arrival{int(binary.BigEndian.Uint32(d.Body)), n}:
				case <-stop:
				}
			}
		})
	}
	return x
}

// open connects to the broker and opens a channel. Both are closed at the end of the
// test.
func open(t *testing.T, broker *testservers.Broker) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return channel
}

func (x *exchange) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *exchange) bind(weight string, queues ...int) {
	x.t.Helper()
	for _, n := range queues {
		x.must(x.declare.QueueBind(x.queues[n], weight, x.name, false, nil))
	}
}

func (x *exchange) unbind(weight string, queue int) {
	x.t.Helper()
	x.must(x.declare.QueueUnbind(x.queues[queue], weight, x.name, nil))
}

// route publishes a message with each routing key, and returns the queues in which the
// messages arrived.
func (x *exchange) route(keys []string) []int {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), time.Minute)
	defer cancel()
	for i, key := range keys {
		x.must(x.publish.PublishWithContext(ctx, x.name, key, false, false, amqp.Publishing{
			Body: binary.BigEndian.AppendUint32(nil, uint32(i)),
		}))
	}
	const nowhere = -1
	queues := slices.Repeat([]int{nowhere}, len(keys))
	for n := range keys {
		select {
		case a := <-x.arrived:
			if queues[a.message] != nowhere {
				x.t.Fatalf("the message for %q arrived in queues %d and %d", keys[a.message], queues[a.message], a.queue)
			}
			queues[a.message] = a.queue
		case <-ctx.Done():
			x.t.Fatalf("%d of %d messages arrived", n, len(keys))
		}
	}
	return queues
}

// seeded returns a random number generator that gives the same numbers in each run.
func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// someIDs returns n different user ids: the first ones, the extremes, and others of
// every length and both signs.
func someIDs(n int) []int64 {
	seen := make(map[int64]bool, n)
	ids := make([]int64, 0, n)
	add := func(id int64) {
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	add(math.MinInt64)
	add(math.MaxInt64)
	for id := range int64(n / 2) {
		add(id)
	}
	for random := seeded(); len(ids) < n; {
		add(int64(random.Uint64()) >> random.IntN(64))
	}
	return ids
}

// keysOf returns the routing keys of users.
func keysOf(ids []int64) []string {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = strconv.FormatInt(id, 10)
	}
	return keys
}

// upTo returns 0, 1 … n-1.
func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func TestExchange(t *testing.T) {
	t.Run("user_ids", testExchangeUserIds)
	t.Run("any_key", testExchangeAnyKey)
	t.Run("order_of_binding", testExchangeOrderOfBinding)
}

func testExchangeUserIds(t *testing.T) {
	share := 10 // of the users, so that the test is quick
	if os.Getenv("GLOTPOD_IDENT_TEST_LONG") != "" {
		share = 1
	}
	for _, c := range []struct{ partitions, users int }{
		{1, 1_000},
		{7, 30_000 / share},
		{64, 100_000 / share},
		{1000, 20_000 / share},
	} {
		t.Run(fmt.Sprint(c.partitions), func(t *testing.T) {
			x := newExchange(t, c.partitions)
			x.bind("1", upTo(c.partitions)...)
			ids := someIDs(c.users)
			differ := 0
			for i, got := range x.route(keysOf(ids)) {
				if want := partition.Of(ids[i], c.partitions); got != want {
					t.Logf("the exchange sends user %d to queue %d, not %d", ids[i], got, want)
					differ++
				}
			}
			if differ > 0 {
				t.Errorf("%d of %d users go to another queue", differ, c.users)
			}
		})
	}
}

func testExchangeAnyKey(t *testing.T) {
	const partitions = 64
	x := newExchange(t, partitions)
	x.bind("1", upTo(partitions)...)
	random := seeded()
	keys := []string{"", longestKey}
	for len(keys) < 2_000 {
		key := make([]byte, random.IntN(256))
		for i := range key {
			key[i] = byte(random.Uint32())
		}
		keys = append(keys, string(key))
	}
	for i, got := range x.route(keys) {
		if want := partition.OfKey(keys[i], partitions); got != want {
			t.Errorf("the exchange sends key %q to queue %d, not %d", keys[i], got, want)
		}
	}
}

func testExchangeOrderOfBinding(t *testing.T) {
	x := newExchange(t, 8)
	ids := someIDs(1_000)
	expect := func(order ...int) {
		t.Helper()
		for i, got := range x.route(keysOf(ids)) {
			if want := order[partition.Of(ids[i], len(order))]; got != want {
				t.Fatalf("the exchange sends user %d to queue %d, not %d", ids[i], got, want)
			}
		}
	}
	x.bind("1", 3, 1, 4, 0, 5, 2, 6)
	expect(3, 1, 4, 0, 5, 2, 6)

	// A further queue gets the last bucket, whatever its name.
	x.bind("1", 7)
	expect(3, 1, 4, 0, 5, 2, 6, 7)

	// If a queue is unbound, the next ones move down; bound again, it gets the last one.
	x.unbind("1", 4)
	expect(3, 1, 0, 5, 2, 6, 7)
	x.bind("1", 4)
	expect(3, 1, 0, 5, 2, 6, 7, 4)

	// A second binding changes neither the bucket nor the weight of a queue.
	x.bind("1", 0)
	x.bind("3", 5)
	expect(3, 1, 0, 5, 2, 6, 7, 4)

	// The queue loses its bucket with either binding, although the other one is left.
	x.unbind("3", 5)
	expect(3, 1, 0, 2, 6, 7, 4)
	x.bind("1", 5)
	expect(3, 1, 0, 2, 6, 7, 4)
	x.unbind("1", 5)
	x.bind("1", 5)
	expect(3, 1, 0, 2, 6, 7, 4, 5)
}
