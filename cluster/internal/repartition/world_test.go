package repartition

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/partition"
)

// A world has a broker, a database, instances that carry requests out, and callers. Each call takes a random
// time, and any of them may fail, hang or freeze. It is used in a synctest bubble.
type world struct {
	t      *testing.T
	server *server
	data   *database
	ending sync.WaitGroup
	end    chan struct{}  // closed when callers send nothing more
	calls  sync.WaitGroup // those that nobody waits for

	mu        sync.Mutex // guards the following fields, and those of server and data
	random    *rand.Rand
	instances map[string]*instance
	bytes     int64         // the memory of the mover
	body      int           // bytes of a request
	slow      time.Duration // what each request takes

	sent    map[int]int                // by user: the number of the last request
	waiting map[string]chan struct{}   // by request: closed when it is replied to
	applied map[string]partition.Lease // by request: under which lease it was carried out
	order   map[int][]int              // by user: the numbers of the requests that were carried out
	owner   map[int]partition.Lease    // by user: under which lease the last one was carried out
	first   map[int]int                // by user: the first partition of the generation of the last one
	exempt  map[int]bool               // users whose requests may be in a queue that is not available
	sentAt  map[string]time.Time       // by request
	longest map[int]time.Duration      // by user: of a request
	lost    []string                   // requests in queues that were deleted
	refused int                        // requests that got an error reply from a mover
	pauses  []time.Duration            // while no generation was served
	onPhase func(partition.Phase)      // called when a repartition has got into a phase
	onCopy  func()                     // called when a request is moved
}

const users = 10

func newWorld(t *testing.T, seed uint64, from partition.Generation, instances int) *world {
	w := &world{
		t: t, random: rand.New(rand.NewPCG(seed, 7)), end: make(chan struct{}), instances: make(map[string]*instance), bytes: 2500, body: 10, slow: 2 * time.Millisecond,
		sent: make(map[int]int), waiting: make(map[string]chan struct{}), applied: make(map[string]partition.Lease), order: make(map[int][]int),
		owner: make(map[int]partition.Lease), first: make(map[int]int), exempt: make(map[int]bool), sentAt: make(map[string]time.Time),
		longest: make(map[int]time.Duration), onPhase: func(partition.Phase) {}, onCopy: func() {},
	}
	w.server = &server{w: w, queues: make(map[string]*queue), conns: make(map[*conn]bool)}
	w.server.queues[topology.RequestQueue] = &queue{name: topology.RequestQueue}
	w.data = newDatabase(w, from)
	w.declare(from)
	for p := from.First; p < from.End(); p++ {
		w.server.bound = append(w.server.bound, topology.PartitionQueue(p))
	}
	for n := range instances {
		w.start(fmt.Sprint("i", n))
	}
	for user := 1; user <= users; user++ {
		w.ending.Go(func() { w.send(user) })
	}
	w.ending.Go(w.watchOwners)
	return w
}

// declare makes the queues of a generation, as the command does before it begins a repartition.
func (w *world) declare(g partition.Generation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range topology.QueuesOf(g) {
		w.server.queues[name] = &queue{name: name, kind: g.QueueType}
	}
}

func (w *world) upTo(d time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.random.Int64N(int64(d)))
}

var errCrashed = errors.New("the instance has crashed")

// call takes the time of a call by an instance: until it is not frozen any more.
func (w *world) call(owner string) error {
	time.Sleep(w.upTo(2 * time.Millisecond))
	for {
		w.mu.Lock()
		i := w.instances[owner]
		crashed, frozen := i != nil && i.crashed, i != nil && i.frozen
		w.mu.Unlock()
		switch {
		case crashed:
			return errCrashed
		case !frozen:
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// affect notes that a queue is not available: the requests of its users may wait, and change places.
func (w *world) affect(name string, change func(*queue)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.server.queues[name]
	change(q)
	q.dispatchLocked()
	w.exemptUsersLocked(name)
}

func (w *world) exemptUsersLocked(name string) {
	for user := 1; user <= users; user++ {
		for _, g := range w.data.generations() {
			if topology.PartitionQueue(g.First+partition.Of(int64(user), g.Partitions)) == name {
				w.exempt[user] = true
			}
		}
	}
}

// send sends the requests of a user until the end: some at once, and more when they are replied to.
func (w *world) send(user int) {
	c := w.server.dial("caller")
	ch, err := c.open()
	if err != nil {
		w.t.Error(err)
		return
	}
	for {
		burst := 1 + int(w.upTo(8))
		begun := time.Now()
		var replies []chan struct{}
		for range burst {
			replies = append(replies, w.sendOne(ch, user))
		}
		for _, reply := range replies {
			select {
			case <-reply:
			case <-time.After(5 * time.Minute):
				w.t.Errorf("user %d: a request from %v on has no reply", user, begun)
				return
			}
		}
		w.mu.Lock()
		w.longest[user] = max(w.longest[user], time.Since(begun))
		w.mu.Unlock()
		select {
		case <-w.end:
			return
		case <-time.After(w.upTo(40 * time.Millisecond)):
		}
	}
}

// sendOne sends a request until the broker has taken it.
func (w *world) sendOne(ch *channel, user int) chan struct{} {
	w.mu.Lock()
	w.sent[user]++
	id := fmt.Sprint(user, " ", w.sent[user])
	reply := make(chan struct{})
	w.waiting[id] = reply
	body := append([]byte(id+" "), make([]byte, w.body)...)
	w.mu.Unlock()
	for {
		var q *queue
		w.mu.Lock()
		q = w.server.route(topology.DirectExchange, strconv.Itoa(user))
		if q != nil && q.down {
			q = nil // and is lost; the caller sends it again
		}
		w.mu.Unlock()
		if q != nil {
			c, err := ch.Publish(topology.DirectExchange, strconv.Itoa(user), false, amqp.Publishing{MessageId: id, Type: "rpc.user.patch", Headers: amqp.Table{}, Body: body})
			if err != nil {
				w.t.Error(err)
			}
			<-c.Done()
			if c.Acked() {
				w.mu.Lock()
				w.sentAt[id] = time.Now()
				w.mu.Unlock()
				return reply
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// isLoose reports whether a request was sent about when queues were bound, so that it may have changed places
// with the next one of the same user.
func (w *world) isLoose(id string) bool {
	return slices.ContainsFunc(w.server.swaps, func(at time.Time) bool { return w.sentAt[id].Sub(at).Abs() < 200*time.Millisecond })
}

// applyLocked carries a request out under a lease, unless that was done before: its id tells.
func (w *world) applyLocked(id string, first int, l partition.Lease) {
	if reply := w.waiting[id]; reply != nil {
		delete(w.waiting, id)
		close(reply)
	}
	if _, before := w.applied[id]; before {
		return
	}
	w.applied[id] = l
	var user, number int
	fmt.Sscan(id, &user, &number)
	last := w.owner[user]
	if first < w.first[user] || first == w.first[user] && l.Epoch < last.Epoch {
		w.t.Errorf("user %d: %+v carries a request out after %+v", user, l, last)
	}
	w.owner[user], w.first[user] = l, first
	w.order[user] = append(w.order[user], number)
}

// watchOwners checks that while a generation is served, each partition has an owner that lives, or gets one
// within two seconds, or as much after a frozen one is noticed.
func (w *world) watchOwners() {
	owned := make(map[int]time.Time)
	var since time.Time // no generation is served
	for {
		select {
		case <-w.end:
			return
		case <-time.After(50 * time.Millisecond):
		}
		w.mu.Lock()
		g, now := w.data.present, time.Now()
		switch switching := w.data.r.IsSwitching(); {
		case switching && since.IsZero():
			since = now
		case !switching && !since.IsZero():
			w.pauses = append(w.pauses, now.Sub(since))
			since = time.Time{}
			clear(owned)
		}
		for p := g.First; p < g.End() && since.IsZero(); p++ {
			l := w.data.leases[p]
			i := w.instances[l.Holder.Name]
			limit := 2 * time.Second
			if i != nil && i.frozen {
				limit += dropAfter
			}
			if i != nil && !i.frozen && !i.crashed && !l.released && i.member == l.Holder || owned[p].IsZero() {
				owned[p] = now
			}
			if now.Sub(owned[p]) > limit {
				w.t.Errorf("partition %d has had no owner since %v", p, owned[p])
				owned[p] = now
			}
		}
		w.mu.Unlock()
	}
}

// copyOf returns the copy of a request, as the router does.
func (w *world) copyOf(d *amqp.Delivery, _ time.Time, to partition.Generation) (string, amqp.Publishing, bool) {
	if topology.IsProbe(d) {
		return "", amqp.Publishing{}, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onCopy()
	return queueOf(d, to), amqp.Publishing{MessageId: d.MessageId, Type: d.Type, Headers: amqp.Table{}, Body: d.Body}, true
}

func userOf(d *amqp.Delivery) (user int64) {
	fmt.Sscan(d.MessageId, &user)
	return user
}

func queueOf(d *amqp.Delivery, g partition.Generation) string {
	return topology.PartitionQueue(g.First + partition.Of(userOf(d), g.Partitions))
}

// refuse replies to a request that a mover does not move.
func (w *world) refuse(d *amqp.Delivery) (string, amqp.Publishing, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused++
	if reply := w.waiting[d.MessageId]; reply != nil {
		delete(w.waiting, d.MessageId)
		close(reply)
	}
	return "", amqp.Publishing{}, false
}

// repartition begins a repartition, and waits until it has ended.
func (w *world) repartition(to partition.Generation) partition.Phase {
	w.declare(to)
	w.data.begin(to)
	for begun := time.Now(); ; {
		w.mu.Lock()
		r := *w.data.r
		w.mu.Unlock()
		if !r.IsUnderWay() {
			return r.Phase
		}
		if time.Since(begun) > 2*time.Minute {
			w.t.Errorf("not ended: %+v", r)
			return r.Phase
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// finish ends the callers and the instances, and checks what has happened.
func (w *world) finish() {
	w.t.Helper()
	time.Sleep(3 * time.Second)
	close(w.end)
	w.ending.Wait()
	w.mu.Lock()
	instances := w.instances
	w.mu.Unlock()
	for _, i := range instances {
		i.crash()
	}
	for _, i := range instances {
		i.running.Wait()
	}
	w.server.close()
	w.calls.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lost) > 0 {
		w.t.Errorf("lost are %v", w.lost)
	}
	for user, sent := range w.sent {
		order := w.order[user]
		if len(order) != sent && w.refused == 0 {
			w.t.Errorf("user %d: %d of %d requests were carried out", user, len(order), sent)
		}
		if w.exempt[user] {
			continue
		}
		for i := 1; i < len(order); i++ {
			if order[i] < order[i-1] && !w.isLoose(fmt.Sprint(user, " ", order[i])) {
				w.t.Errorf("user %d: request %d after %d", user, order[i], order[i-1])
			}
		}
	}
}

// pause returns how long a request of a user took whose queues were available all the time.
func (w *world) pause() (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for user, d := range w.longest {
		if !w.exempt[user] {
			longest = max(longest, d)
		}
	}
	return longest
}
