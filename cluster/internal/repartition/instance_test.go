package repartition

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/generation"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// An instance carries requests out in one generation after another. The fields but name, w and running are
// guarded by mu of the world.
type instance struct {
	w       *world
	name    string
	running sync.WaitGroup
	stop    context.CancelFunc

	crashed, frozen bool
	run             int64 // number of the process
	session         int64
	member          ownership.Member // of the present session; zero: there is none
	in              partition.Generation
}

// start starts an instance, after it has crashed too.
func (w *world) start(name string) {
	ctx, stop := context.WithCancel(context.Background())
	w.mu.Lock()
	i := &instance{w: w, name: name, stop: stop, run: time.Now().UnixNano()}
	w.instances[name] = i
	w.mu.Unlock()
	watcher := NewWatcher(w.options(i))
	i.running.Go(func() { watcher.Run(ctx) })
	i.running.Go(func() {
		for {
			g, err := watcher.Await(ctx)
			if err != nil {
				return
			}
			working, leave := context.WithCancel(ctx)
			watcher.Enter(g, leave)
			i.work(working, g)
			watcher.Leave()
			leave()
		}
	})
}

// crash ends an instance as a SIGKILL does.
func (i *instance) crash() {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	i.crashed = true
	i.stop()
	i.dropLocked(false)
}

// dropLocked has the broker drop the connections of an instance, or lose them with a node.
func (i *instance) dropLocked(lost bool) {
	for c := range i.w.server.conns {
		if c.owner == i.name {
			c.dropLocked(lost)
		}
	}
}

// dropAfter is when the broker drops the connections of a frozen instance.
const dropAfter = 2500 * time.Millisecond

// freeze freezes an instance. The broker drops its connections after a while.
func (i *instance) freeze(d time.Duration) {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	i.frozen = true
	if d > dropAfter {
		time.AfterFunc(dropAfter, func() {
			i.w.mu.Lock()
			defer i.w.mu.Unlock()
			i.dropLocked(false)
		})
	}
	time.AfterFunc(d, func() {
		i.w.mu.Lock()
		defer i.w.mu.Unlock()
		i.frozen = false
	})
}

// cutOff has the node of the broker be lost to which an instance is connected.
func (i *instance) cutOff(d time.Duration) {
	i.freeze(d)
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	i.dropLocked(true)
}

func (i *instance) nextMember() ownership.Member {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	i.session++
	return ownership.Member{Name: i.name, Incarnation: ownership.Incarnation{Start: i.run, Session: i.session}}
}

// work serves the partitions of a generation until ctx is done, or the connection is lost.
func (i *instance) work(ctx context.Context, g partition.Generation) {
	w, self := i.w, i.nextMember()
	conn := w.server.dial(i.name)
	defer conn.CloseDeadline(time.Time{})
	ch, err := conn.open()
	if err == nil {
		_, err = ch.QueueDeclare(membership.QueueOf(self), false, true, true, false, nil)
	}
	for n := 0; err == nil && n < g.Partitions; n++ { // the order of those that are bound stays
		err = ch.QueueBind(topology.PartitionQueue(g.First+n), "1", topology.DirectExchange, true, nil)
	}
	if err != nil || !w.data.isPresent(i.name, g) {
		if err == nil {
			topology.Unbind(func() (topology.Channel, error) { return conn.open() }, g)
		}
		return
	}
	w.mu.Lock()
	i.member, i.in = self, g
	w.mu.Unlock()
	var serving sync.WaitGroup
	defer func() {
		defer time.AfterFunc(time.Second, func() { conn.CloseDeadline(time.Time{}) }).Stop() // what hangs then ends
		serving.Wait()
		w.mu.Lock()
		i.member = ownership.Member{}
		w.mu.Unlock()
		w.data.releaseAll(i.name, self)
	}()
	serving.Go(func() { i.consume(ctx, conn, g, topology.RequestQueue, nil) })
	stop := make(map[int]func())
	defer func() {
		for _, f := range stop {
			f()
		}
	}()
	for ctx.Err() == nil && !conn.IsClosed() {
		wanted := w.wanted(self, g)
		for p, f := range stop {
			if !slices.Contains(wanted, p) {
				delete(stop, p)
				f()
			}
		}
		for _, p := range wanted {
			if l, ok := w.data.take(i.name, self, p); ok && stop[p] == nil {
				var ending context.Context
				ending, stop[p] = context.WithCancel(ctx)
				serving.Go(func() {
					i.consume(ending, conn, g, topology.PartitionQueue(p), &l)
					w.data.release(i.name, l)
				})
			}
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// wanted returns the partitions that a member should serve: each is that of one of the members.
func (w *world) wanted(self ownership.Member, g partition.Generation) (all []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for _, name := range sorted(w.instances) {
		if i := w.instances[name]; i.in == g && w.server.queues[membership.QueueOf(i.member)] != nil {
			names = append(names, name)
		}
	}
	at := slices.Index(names, self.Name)
	for n := range g.Partitions {
		if at >= 0 && n%len(names) == at {
			all = append(all, g.First+n)
		}
	}
	return all
}

// consume carries out what comes to a queue under a lease, or forwards it if that is nil, until ctx is done.
func (i *instance) consume(ctx context.Context, conn *conn, g partition.Generation, queue string, l *partition.Lease) {
	for ctx.Err() == nil && !conn.IsClosed() {
		c, err := consume.Open(conn.OpenConsuming, queue, 5)
		if err == nil {
			err = c.Start(l != nil && g.QueueType == topology.Classic)
		}
		if err != nil {
			sleep(ctx, 100*time.Millisecond)
			continue
		}
		for open := true; open; {
			select {
			case d, ok := <-c.Deliveries:
				if open = ok; ok {
					open = i.handle(ctx, conn, g, c, d, l)
				}
			case <-ctx.Done():
				open = false
			}
		}
		c.Close()
		sleep(ctx, 20*time.Millisecond)
	}
}

func (i *instance) handle(ctx context.Context, conn *conn, g partition.Generation, c *consume.Consumer, delivery amqp.Delivery, l *partition.Lease) bool {
	w, d := i.w, &delivery
	c.Track(d)
	sleep(ctx, w.upTo(w.slow))
	if w.call(i.name) != nil || ctx.Err() != nil {
		return false
	}
	switch queue := queueOf(d, g); {
	case topology.IsProbe(d):
	case l == nil || queue != c.Queue:
		w.ending.Go(func() { i.forward(conn, queue, c, d) })
		return true
	case !w.data.apply(d.MessageId, g, *l):
		return false
	}
	_, err := c.Ack(d, true)
	return err == nil
}

// forward sends a request to the queue of its user. Others do not wait for that.
func (i *instance) forward(conn *conn, queue string, c *consume.Consumer, d *amqp.Delivery) {
	ch, err := conn.open()
	if err != nil {
		return
	}
	defer ch.Close()
	confirmation, err := ch.Publish("", queue, true, amqp.Publishing{MessageId: d.MessageId, Type: d.Type, Headers: amqp.Table{}, Body: d.Body})
	if err != nil {
		return
	}
	if <-confirmation.Done(); confirmation.Acked() {
		c.Ack(d, true) // on an error it comes again
	}
}

// A store is what the mover uses of the database.
type store struct {
	generation.Store
	w     *world
	owner string
}

func (s *store) Survey(context.Context) ([]ownership.Row, error) { return s.w.data.survey(s.owner) }

func (s *store) Claim(_ context.Context, claims []ownership.Claim) ([]ownership.Event, error) {
	return s.w.data.claim(s.owner, claims)
}

func (s *store) Release(_ context.Context, leases []partition.Lease) error {
	for _, l := range leases {
		s.w.data.release(s.owner, l)
	}
	return nil
}

func (w *world) options(i *instance) Options {
	return Options{
		Name: i.name, Store: &store{w: w, owner: i.name}, Records: &records{w.data, i.name}, NextMember: i.nextMember,
		Dial: func(context.Context, string) (Connection, error) {
			if err := w.call(i.name); err != nil {
				return nil, err
			}
			return w.server.dial(i.name), nil
		},
		DropsWithin: 4 * time.Second, Copy: w.copyOf, Refusal: w.refuse, Bytes: w.bytes, Log: logOf(w.t),
	}
}

func sorted(instances map[string]*instance) (names []string) {
	for name := range instances {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func logOf(t *testing.T) *zap.Logger {
	if testing.Verbose() {
		return zaptest.NewLogger(t)
	}
	return zap.NewNop()
}
