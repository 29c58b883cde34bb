package relay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/partition"
)

// A world has some instances, one partition and its queue. Everything takes a random time. It is
// used in a synctest bubble.
type world struct {
	t      *testing.T
	random *rand.Rand // guarded by mu
	ending sync.WaitGroup

	mu        sync.Mutex // guards the following fields, and those of instances
	instances map[partition.Member]*instance
	serving   *instance // nil: none
	epoch     int
	queue     []item
	faults    float64       // the probability that a message between instances is lost
	busy      float64       // the probability that an instance has no room for a request
	outcome   *Outcome      // of the next relayed requests; nil: any
	slow      time.Duration // what each relayed request takes in addition

	applied   map[int][]int // by user: the numbers of the requests that were carried out, in order
	done      map[[2]int]int
	completed map[[2]int]int // how often each request was completed by its router
	batches   []int
	atOnce    bool // what is relayed is sent at once
	relayed   int  // requests that were carried out without the queue
}

// An item of the partition's queue is a write or an ask.
type item struct {
	write *write
	ask   []byte
}

type instance struct {
	world *world
	self  partition.Member
	relay *Relay
	stop  context.CancelFunc
	ctx   context.Context

	frozen  bool
	inbox   [][]byte // while it is frozen
	senders *Senders // of the present lease
}

// A write is a request of a user, a Forward of an instance.
type write struct {
	from         *instance
	user, number int
}

func (w *write) Request() *Request {
	w.from.world.mu.Lock()
	defer w.from.world.mu.Unlock()
	return &Request{AtOnce: w.from.world.atOnce, Body: fmt.Appendf(nil, "%d %d", w.user, w.number)}
}

func (w *write) Complete() {
	w.from.world.mu.Lock()
	defer w.from.world.mu.Unlock()
	w.from.world.completed[[2]int{w.user, w.number}]++
}

func (w *write) SendToQueue() {
	w.from.world.pause()
	w.from.world.mu.Lock()
	w.from.world.queue = append(w.from.world.queue, item{write: w})
	w.from.world.mu.Unlock()
	w.Complete()
}

func (w *write) Serve() bool {
	x := w.from.world
	x.mu.Lock()
	served := x.serving == w.from
	if served {
		x.applyLocked(w.user, w.number)
	}
	x.mu.Unlock()
	if served {
		w.Complete()
	}
	return served
}

// applyLocked carries a request out, unless that was done before: its request id tells.
func (w *world) applyLocked(user, number int) {
	if key := [2]int{user, number}; w.done[key] == 0 {
		w.done[key]++
		w.applied[user] = append(w.applied[user], number)
	}
}

func newWorld(t *testing.T, seed uint64, instances int) *world {
	w := &world{
		t: t, random: rand.New(rand.NewPCG(seed, 1)), instances: make(map[partition.Member]*instance),
		applied: make(map[int][]int), done: make(map[[2]int]int), completed: make(map[[2]int]int),
	}
	for n := range instances {
		i := &instance{world: w, self: partition.Member{Name: fmt.Sprint("i", n)}, senders: new(Senders)}
		i.ctx, i.stop = context.WithCancel(context.Background())
		i.relay = New(Options{
			Self: i.self, Partitions: 1, Sealer: seal.Sealer{{1}}, Log: zap.NewNop(),
			Open: func() (publish.Channel, error) { return newChannel(w), nil },
			Run: func(p *publish.Publisher) context.CancelFunc {
				ctx, stop := context.WithCancel(i.ctx)
				w.ending.Go(func() { p.Run(ctx) })
				return stop
			},
			Ask: func(_ int, ask []byte) {
				w.pause()
				w.mu.Lock()
				defer w.mu.Unlock()
				w.queue = append(w.queue, item{ask: ask})
			},
			Accept: i.accept,
			Batch: func(n int) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.batches = append(w.batches, n)
			},
		})
		w.instances[i.self] = i
	}
	return w
}

// upTo returns a random duration.
func (w *world) upTo(d time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.random.Int64N(int64(d)))
}

func (w *world) pause() { time.Sleep(w.upTo(2 * time.Millisecond)) }

func (w *world) happens(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.random.Float64() < p
}

// accept carries a relayed request out as the session does.
func (i *instance) accept(from partition.Member, q *Request) {
	w := i.world
	w.mu.Lock()
	if w.serving != i || !i.senders.Accept(from, q) {
		i.senders.Refuse(from, q)
		w.mu.Unlock()
		i.relay.Report(from, q.Number, Refused)
		return
	}
	if w.random.Float64() < w.busy {
		i.senders.Refuse(from, q)
		w.mu.Unlock()
		i.relay.Report(from, q.Number, Busy)
		return
	}
	var user, number int
	fmt.Sscan(string(q.Body), &user, &number)
	w.applyLocked(user, number)
	w.relayed++
	outcome, slow := Done, w.slow
	switch w.random.IntN(40) { // the same in effect
	case 0:
		outcome = Returned
	case 1:
		outcome = DoneUrgent
	}
	if w.outcome != nil {
		outcome = *w.outcome
	}
	w.mu.Unlock()
	w.ending.Go(func() {
		time.Sleep(w.upTo(10*time.Millisecond) + slow)
		i.relay.Report(from, q.Number, outcome)
	})
}

// take has an instance serve the partition from now on, and consume the queue.
func (w *world) take(i *instance) {
	w.mu.Lock()
	w.serving = i
	w.epoch++
	epoch := w.epoch
	i.senders = new(Senders)
	w.mu.Unlock()
	w.ending.Go(func() {
		for i.ctx.Err() == nil {
			w.pause()
			w.mu.Lock()
			if w.epoch != epoch {
				w.mu.Unlock()
				return
			}
			if len(w.queue) == 0 || i.frozen {
				w.mu.Unlock()
				continue
			}
			next := w.queue[0]
			w.queue = w.queue[1:]
			if next.write != nil {
				w.applyLocked(next.write.user, next.write.number)
				w.mu.Unlock()
				continue
			}
			from, ask, ok := i.relay.ReadAsk(next.ask)
			if !ok {
				w.t.Error("the seal of an ask is not valid")
			}
			i.senders.Answer(from, ask)
			w.mu.Unlock()
			i.relay.Answer(from, 0, ask)
		}
	})
}

// deliver hands a message to the instance whose queue it is in. It returns false if there is none.
func (w *world) deliver(queue string, body []byte) bool {
	w.mu.Lock()
	for member, i := range w.instances {
		if QueueOf(member) != queue {
			continue
		}
		if i.frozen {
			i.inbox = append(i.inbox, body)
			w.mu.Unlock()
			return true
		}
		w.mu.Unlock()
		if err := i.relay.Receive(body); err != nil {
			w.t.Error(err)
		}
		return true
	}
	w.mu.Unlock()
	return false
}

// freeze stops an instance from receiving anything for a time.
func (w *world) freeze(i *instance, d time.Duration) {
	w.setFrozen(i, true)
	time.Sleep(d)
	w.mu.Lock()
	i.frozen = false
	inbox := i.inbox
	i.inbox = nil
	w.mu.Unlock()
	for _, body := range inbox {
		i.relay.Receive(body)
	}
}

// relayedAndApplied returns how many requests were carried out without the queue, and how many of
// user 1 altogether.
func (w *world) relayedAndApplied() (relayed, applied int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.relayed, len(w.applied[1])
}

// set changes the world.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// setFrozen says whether an instance receives nothing.
func (w *world) setFrozen(i *instance, frozen bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i.frozen = frozen
}

// counts returns how many lanes an instance has, and how many of its requests are relayed.
func (i *instance) counts() (lanes, relayed int) {
	i.relay.mu.Lock()
	defer i.relay.mu.Unlock()
	return len(i.relay.lanes), len(i.relay.sent)
}

// close ends all instances.
func (w *world) close() {
	for _, i := range w.instances {
		i.relay.Close()
		i.stop()
	}
	w.ending.Wait()
	time.Sleep(time.Minute) // what goes to the queue
}

// A channel is a [publish.Channel] of the world. It keeps the order of messages.
type channel struct {
	world   *world
	returns chan amqp.Return
	closed  chan *amqp.Error
	sent    chan *confirmation
	once    sync.Once
}

type confirmation struct {
	queue   string
	message amqp.Publishing
	done    chan struct{}
}

func (c *confirmation) Done() <-chan struct{} { return c.done }
func (c *confirmation) Acked() bool           { return true }

func newChannel(w *world) *channel {
	c := &channel{world: w, sent: make(chan *confirmation, 1000)}
	w.ending.Go(func() {
		for m := range c.sent {
			w.pause()
			lost := w.happens(w.faults)
			if !lost && !w.deliver(m.queue, m.message.Body) {
				c.giveBack(m)
			}
			close(m.done)
		}
	})
	return c
}

// giveBack returns a message, unless the channel is closed.
func (c *channel) giveBack(m *confirmation) {
	defer func() { recover() }()
	c.returns <- amqp.Return{Headers: m.message.Headers}
}

func (c *channel) Confirm(bool) error { return nil }

func (c *channel) Publish(_, key string, _ bool, m amqp.Publishing) (publish.Confirmation, error) {
	x := &confirmation{queue: key, message: m, done: make(chan struct{})}
	c.sent <- x
	return x, nil
}

func (c *channel) NotifyReturn(returns chan amqp.Return) chan amqp.Return {
	c.returns = returns
	return returns
}

func (c *channel) NotifyClose(closed chan *amqp.Error) chan *amqp.Error {
	c.closed = closed
	return closed
}

func (c *channel) Ping(int) error { return nil }
func (c *channel) IsClosed() bool { return false }

func (c *channel) Close() error {
	c.once.Do(func() {
		close(c.sent)
		close(c.returns)
		close(c.closed)
	})
	return nil
}
