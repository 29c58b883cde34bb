package repartition

import (
	"slices"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/partition"
)

// A server is a broker. Its fields, and those of its queues, connections and channels, are guarded by mu of the world.
type server struct {
	w       *world
	queues  map[string]*queue
	bound   []string    // to the direct exchange, in order
	swaps   []time.Time // when requests of a user may have gone to another queue, but not to one that is moved later
	conns   map[*conn]bool
	seq     int64
	alarm   bool          // it blocks publishing
	limited bool          // it makes no more queues
	returns time.Duration // after which a quorum queue gives back what a lost consumer had
}

type queue struct {
	name      string
	kind      string // classic, quorum, or "" of the shared queue
	owner     *conn  // of an exclusive queue
	messages  []message
	consumers []*consumer // the first one is active, unless the queue is the shared one

	down, hung, full bool
}

type message struct {
	seq int64
	d   amqp.Delivery
}

type consumer struct {
	queue      *queue
	channel    *channel
	tag        string
	prefetch   int
	exclusive  bool
	unacked    map[uint64]message
	deliveries chan amqp.Delivery
}

type conn struct {
	server   *server
	owner    string
	closed   bool
	channels []*channel
}

func (s *server) dial(owner string) *conn {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	c := &conn{server: s, owner: owner}
	s.conns[c] = true
	return c
}

// open takes no time, as all that the client's mutexes are held for: a bubble's time stands still then.
func (c *conn) open() (*channel, error) {
	c.server.w.mu.Lock()
	defer c.server.w.mu.Unlock()
	if c.closed {
		return nil, amqp.ErrClosed
	}
	ch := &channel{conn: c, prefetch: 1, last: make(chan struct{})}
	close(ch.last)
	c.channels = append(c.channels, ch)
	return ch, nil
}

func (c *conn) OpenConsuming() (consume.Channel, error)  { return c.open() }
func (c *conn) OpenPublishing() (publish.Channel, error) { return c.open() }
func (c *conn) OpenDeclaring() (DeclaringChannel, error) { return c.open() }
func (c *conn) NotifyBlocked(b chan amqp.Blocking) chan amqp.Blocking {
	c.server.w.mu.Lock()
	defer c.server.w.mu.Unlock()
	if c.server.alarm {
		b <- amqp.Blocking{Active: true}
	}
	return b
}

func (c *conn) IsClosed() bool {
	c.server.w.mu.Lock()
	defer c.server.w.mu.Unlock()
	return c.closed
}

func (c *conn) CloseDeadline(time.Time) error {
	c.server.w.mu.Lock()
	defer c.server.w.mu.Unlock()
	c.dropLocked(false)
	return nil
}

// close ends all connections.
func (s *server) close() {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for c := range s.conns {
		c.dropLocked(false)
	}
}

// dropLocked ends a connection. A quorum queue may keep what a lost consumer has not acknowledged.
func (c *conn) dropLocked(lost bool) {
	if c.closed {
		return
	}
	c.closed = true
	delete(c.server.conns, c)
	for _, ch := range c.channels {
		ch.closeLocked(nil, lost)
	}
	for name, q := range c.server.queues {
		if q.owner == c {
			delete(c.server.queues, name)
		}
	}
}

// removeLocked gives back what a consumer has not acknowledged.
func (c *consumer) removeLocked() {
	q := c.queue
	q.consumers = slices.DeleteFunc(q.consumers, func(other *consumer) bool { return other == c })
	for _, m := range c.unacked {
		m.d.Redelivered = true
		q.messages = append(q.messages, m)
	}
	clear(c.unacked)
	slices.SortFunc(q.messages, func(a, b message) int { return int(a.seq - b.seq) })
	q.dispatchLocked()
}

func (q *queue) dispatchLocked() {
	for len(q.messages) > 0 && !q.hung && !q.down {
		candidates := q.consumers
		if q.kind != "" && len(candidates) > 1 {
			candidates = candidates[:1]
		}
		i := slices.IndexFunc(candidates, func(c *consumer) bool { return !c.channel.closed && len(c.unacked) < c.prefetch })
		if i < 0 {
			return
		}
		c, m := candidates[i], q.messages[0]
		q.messages = q.messages[1:]
		c.channel.tag++
		m.d.DeliveryTag, m.d.ConsumerTag = c.channel.tag, c.tag
		c.unacked[m.d.DeliveryTag] = m
		c.deliveries <- m.d
	}
}

// route returns the queue that a message goes to, nil if there is none.
func (s *server) route(exchange, key string) *queue {
	switch {
	case exchange != topology.DirectExchange:
		return s.queues[key]
	case len(s.bound) == 0:
		return s.queues[topology.RequestQueue]
	}
	return s.queues[s.bound[partition.OfKey(key, len(s.bound))]]
}

func (s *server) enqueue(q *queue, exchange, key string, p amqp.Publishing) {
	if len(q.consumers) > 0 && q.kind != "" && q.consumers[0].channel.closed {
		user, _ := strconv.Atoi(key)
		s.w.exempt[user] = true // the broker activates no other consumer yet
	}
	s.seq++
	q.messages = append(q.messages, message{s.seq, amqp.Delivery{
		Headers: p.Headers, Exchange: exchange, RoutingKey: key, MessageId: p.MessageId, Type: p.Type, Body: p.Body, ReplyTo: p.ReplyTo,
	}})
	q.dispatchLocked()
}
