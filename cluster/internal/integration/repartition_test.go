package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
)

// TestRepartition: while requests come, the number of partitions and the type of their queues are
// changed. Each request is carried out once, and those about one user in order.
func TestRepartition(t *testing.T) {
	t.Run("while_requests_come", testRepartitionWhileRequestsCome)
	t.Run("a_failure_at_each_step", testRepartitionFailures)
	t.Run("a_queue_hangs", testRepartitionHangs)
	t.Run("given_up", testRepartitionGivenUp)
}

func testRepartitionWhileRequestsCome(t *testing.T) {
	t.Parallel()
	c := newRepartitioned(t, 4, "classic", nil, nil, nil)
	c.repartition(9, "quorum")
	c.repartition(3, "classic")
	c.check()
	if c.longest > 5*time.Second { // about one, if the machine is not busy
		t.Errorf("a request took %v", c.longest)
	}
}

// Each step fails once before it has done something, and once after that.
func testRepartitionFailures(t *testing.T) {
	t.Parallel()
	failures := &failures{at: make(map[string]bool)}
	fail := func(o *cluster.Options) { o.Generations = failingRecords{o.Generations, failures} }
	c := newRepartitioned(t, 3, "quorum", fail, fail)
	c.repartition(4, "quorum")
	c.check()
	if n := len(failures.at); n != 6 {
		t.Errorf("%d failures: %v", n, failures.at)
	}
}

// An old queue does not respond from the end of the old generation on: nobody waits until it does but its users.
func testRepartitionHangs(t *testing.T) {
	t.Parallel()
	var c *repartitioned
	var resume func()
	hang := func(o *cluster.Options) {
		o.Generations = hangingRecords{o.Generations, func() { resume = c.vhost.SuspendQueue(t, cluster.PartitionQueue(1)) }}
	}
	c = newRepartitioned(t, 3, "classic", hang, hang)
	c.begin(4, "quorum")
	c.awaitPhase(partition.Clearing)
	if err := cluster.CheckQueues(t.Context(), c.dial(), partition.Generation{Partitions: 3}); err == nil || !strings.Contains(err.Error(), "/0001: ") || strings.Contains(err.Error(), "/0002: ") {
		t.Errorf("the queue that hangs is not found: %v", err)
	}
	served := c.count()
	c.until("others are served", func() bool { return c.count() > served+50 })
	resume()
	c.awaitPhase(partition.Done)
	c.check()
}

// A hangingRecords calls ended when the old generation has ended.
type hangingRecords struct {
	cluster.Generations
	ended func()
}

func (r hangingRecords) EndGeneration(ctx context.Context, a partition.Attempt, held []partition.Lease, keep time.Duration) error {
	err := r.Generations.EndGeneration(ctx, a, held, keep)
	if err == nil {
		r.ended()
	}
	return err
}

// A subscriber that refuses a notification keeps the old generation.
func testRepartitionGivenUp(t *testing.T) {
	t.Parallel()
	c := newRepartitioned(t, 2, "classic", nil, nil)
	full, err := c.channel.QueueDeclare("full", false, false, true, false, amqp.Table{"x-max-length": 0, "x-overflow": "reject-publish"})
	if err == nil {
		err = c.channel.QueueBind(full.Name, "notifications.#", "amq.topic", false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.until("a notification is held back", func() bool { return c.one("SELECT count(*) FROM ident_held_back") != int64(0) })
	c.begin(5, "classic")
	c.awaitPhase(partition.GivenUp)
	if _, err := c.channel.QueueDelete(full.Name, false, false, false); err != nil {
		t.Fatal(err)
	}
	g, r, err := store.Generations(c.store).Look(t.Context())
	if err != nil || g.First != 0 || !strings.Contains(r.Note, "not notified") {
		t.Errorf("%+v, %+v, %v", g, r, err)
	}
	c.check()
}

// failures are the steps that have failed.
type failures struct {
	mu sync.Mutex
	at map[string]bool
}

var errInjected = errors.New("injected failure")

// step makes a step, which fails once before and once after it has done something.
func (f *failures) step(name string, make func() error) error {
	fails := func(when string) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		before := f.at[when+name]
		f.at[when+name] = true
		return !before
	}
	if fails("before ") {
		return errInjected
	}
	if err := make(); err != nil {
		return err
	}
	if fails("after ") {
		return errInjected
	}
	return nil
}

// A failingRecords has each step fail.
type failingRecords struct {
	cluster.Generations
	failures *failures
}

func (r failingRecords) EndGeneration(ctx context.Context, a partition.Attempt, held []partition.Lease, keep time.Duration) error {
	return r.failures.step("the end of the old generation", func() error { return r.Generations.EndGeneration(ctx, a, held, keep) })
}

func (r failingRecords) BeginGeneration(ctx context.Context, a partition.Attempt) error {
	return r.failures.step("the beginning of the new generation", func() error { return r.Generations.BeginGeneration(ctx, a) })
}

func (r failingRecords) Finish(ctx context.Context, a partition.Attempt) error {
	return r.failures.step("the end of the repartition", func() error { return r.Generations.Finish(ctx, a) })
}

// A repartitioned is a cluster with a load.
type repartitioned struct {
	*setup
	conn    *amqp.Connection // of the load
	users   []int64
	loading sync.WaitGroup
	stop    chan struct{}

	mu      sync.Mutex    // guards the following fields
	sent    int           // patches
	longest time.Duration // of the requests that were replied to
}

// newRepartitioned starts instances and a load.
func newRepartitioned(t *testing.T, partitions int, queueType string, instances ...func(*cluster.Options)) *repartitioned {
	c := &repartitioned{setup: newSetup(t), stop: make(chan struct{})}
	c.options.Partitions, c.options.QueueType = partitions, queueType
	c.options.Broker.Heartbeat = time.Second
	for n, change := range instances {
		c.start(n, change)
	}
	c.conn = c.dial()
	c.subscribe(nil)
	caller := c.client()
	for n := range 12 {
		body, _ := msgp.AppendMapStrIntf(nil, map[string]any{"name": "0", "email": fmt.Sprint(n), "github": map[string]any{"id": n + 1, "access_token": "t"}})
		reply, err := caller.Call(t.Context(), "create", "", body)
		if err != nil {
			t.Fatal(err)
		}
		user := resultOf(t, reply)["user_id"].(int64)
		c.users = append(c.users, user)
		c.loading.Go(func() { c.call(caller, user) })
	}
	return c
}

func (c *repartitioned) dial() *amqp.Connection {
	c.t.Helper()
	conn, err := amqp.Dial(c.url)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

func resultOf(t testing.TB, reply []byte) map[string]any {
	t.Helper()
	v, _, err := msgp.ReadMapStrIntfBytes(reply, nil)
	result, ok := v["result"].(map[string]any)
	if err != nil || !ok {
		t.Errorf("reply %v, %v", v, err)
	}
	return result
}

// start runs an instance until the end of the test, or until it is stopped.
func (c *repartitioned) start(n int, change func(*cluster.Options)) {
	c.t.Helper()
	users := openStore(c.t, c.database)
	options := c.options
	c.options.Name, c.options.Store, c.options.Generations = fmt.Sprint("i", n), users, store.Generations(users)
	if change != nil {
		change(&c.options)
	}
	instance, _ := c.launch()
	c.options = options
	c.until("the instance is ready", func() bool { return instance.Ready() == nil })
}

func patchName(user int64, name string) []byte {
	body, _ := msgp.AppendMapStrIntf(nil, map[string]any{"user_id": user, "ops": []any{map[string]any{"op": "replace", "path": "/name", "value": name}}})
	return body
}

// call sends patches of a user, one after another, by both ways.
func (c *repartitioned) call(caller *caller, user int64) {
	for n := 1; ; n++ {
		select {
		case <-c.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
		begun := time.Now()
		var reply []byte
		var err error
		if n%2 == 0 {
			reply, err = caller.CallDirect(ctx, user, "patch", "", patchName(user, strconv.Itoa(n)))
		} else {
			reply, err = caller.Call(ctx, "patch", "", patchName(user, strconv.Itoa(n)))
		}
		cancel()
		if v, _, _ := msgp.ReadMapStrIntfBytes(reply, nil); err != nil || v["result"] == nil {
			c.t.Errorf("reply %v, %v", v, err)
		}
		c.mu.Lock()
		c.sent++
		c.longest = max(c.longest, time.Since(begun))
		c.mu.Unlock()
	}
}

func (c *repartitioned) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// repartition begins a repartition and waits until it is done.
func (c *repartitioned) repartition(partitions int, queueType string) {
	c.t.Helper()
	old, _, err := store.Generations(c.store).Look(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	c.begin(partitions, queueType)
	c.awaitPhase(partition.Done)
	now, r, err := store.Generations(c.store).Look(c.t.Context())
	if err != nil || now.Partitions != partitions || now.QueueType != queueType || now.First != old.End() {
		c.t.Fatalf("%+v %+v %v", now, r, err)
	}
	c.t.Logf("moved %d requests in %d attempts", r.Moved, r.Attempt)
	for p := old.First; p < now.End(); p++ {
		kind, found, err := cluster.QueueKind(c.conn, cluster.PartitionQueue(p))
		if err != nil || found != (p >= now.First) || queueType == "classic" && found && kind != "classic" {
			c.t.Errorf("queue %d: %v %v %v", p, kind, found, err)
		}
	}
}

func (c *repartitioned) begin(partitions int, queueType string) {
	c.t.Helper()
	g := store.Generations(c.store)
	next, err := g.Next(c.t.Context(), partitions, queueType)
	if err == nil {
		err = cluster.DeclareQueues(c.conn, next, c.options.Log)
	}
	if err == nil {
		err = g.Begin(c.t.Context(), next)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	if err := membership.AskToLook(c.t.Context(), c.conn); err != nil {
		c.t.Fatal(err)
	}
}

func (c *repartitioned) awaitPhase(phase partition.Phase) {
	c.t.Helper()
	c.until("the repartition is "+string(phase), func() bool {
		_, r, err := store.Generations(c.store).Look(c.t.Context())
		return err == nil && r.Phase == phase
	})
}

// check ends the load, and checks that all was carried out once and in order, and notified.
func (c *repartitioned) check() {
	c.t.Helper()
	close(c.stop)
	c.loading.Wait()
	sum := len(c.users) + c.sent
	c.t.Logf("%d requests; the longest one took %v", sum, c.longest)
	c.until("all requests are carried out", func() bool { return c.one("SELECT count(*) FROM ident_log WHERE position IS NOT NULL") == int64(sum) })
	rows, err := c.db.Query(c.t.Context(), "SELECT user_id, (change->0->>'value') FROM ident_log WHERE operation = 'patch' AND position IS NOT NULL ORDER BY user_id, sequence")
	if err != nil {
		c.t.Fatal(err)
	}
	names := make(map[int64][]string)
	for rows.Next() {
		var user int64
		var name *string
		if err := rows.Scan(&user, &name); err != nil {
			c.t.Fatal(err)
		}
		names[user] = append(names[user], *name)
	}
	for user, all := range names {
		for i, name := range all {
			if name != strconv.Itoa(i+1) {
				c.t.Fatalf("user %d: name %s was set as number %d", user, name, i+1)
			}
		}
	}
	c.checkNotifications(sum)
}

// checkNotifications checks that each change was notified in order; repeats may come.
func (c *repartitioned) checkNotifications(changes int) {
	c.t.Helper()
	seen := make(map[string]bool)
	heard := make(map[int64]int)
	deliveries := c.consume()
	for len(seen) < changes {
		d := c.next(deliveries)
		if seen[d.MessageId] {
			continue
		}
		seen[d.MessageId] = true
		var n struct {
			UserID int64 `json:"user_id"`
			Ops    []struct{ Value string }
		}
		if d.RoutingKey != "notifications.user.patch" {
			continue
		}
		if err := json.Unmarshal(d.Body, &n); err != nil || len(n.Ops) != 1 {
			c.t.Fatalf("%s: %v", d.Body, err)
		}
		if heard[n.UserID]++; n.Ops[0].Value != strconv.Itoa(heard[n.UserID]) {
			c.t.Fatalf("user %d: change %d was notified as %s", n.UserID, heard[n.UserID], n.Ops[0].Value)
		}
	}
}
