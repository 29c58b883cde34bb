package repartition

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/topology"
)

// A channel is that of a client library.
type channel struct {
	conn      *conn
	closed    bool
	prefetch  int
	tag       uint64
	consumers []*consumer
	notify    []chan *amqp.Error
	returns   chan amqp.Return
	last      chan struct{} // closed when what was published last is handled
}

func (ch *channel) closeLocked(cause *amqp.Error, lost bool) {
	if ch.closed {
		return
	}
	ch.closed = true
	for _, n := range ch.notify {
		if cause != nil {
			n <- cause
		}
		close(n)
	}
	if ch.returns != nil {
		close(ch.returns)
	}
	for _, c := range ch.consumers {
		close(c.deliveries)
		if s := ch.conn.server; lost && c.queue.kind == topology.Quorum && len(c.unacked) > 0 && s.returns > 0 {
			s.w.exemptUsersLocked(c.queue.name)
			for _, m := range c.unacked {
				s.w.exempt[int(userOf(&m.d))] = true
			}
			time.AfterFunc(s.returns, func() {
				s.w.mu.Lock()
				defer s.w.mu.Unlock()
				c.removeLocked()
			})
			continue
		}
		c.removeLocked()
	}
}

// find returns a queue, and closes the channel if there is none. If the queue hangs, it waits. The world is locked.
func (ch *channel) find(name string) (*queue, error) {
	for {
		q := ch.conn.server.queues[name]
		switch {
		case ch.closed:
			return nil, amqp.ErrClosed
		case q == nil || q.down:
			return nil, ch.refuse(amqp.NotFound)
		case !q.hung:
			return q, nil
		}
		ch.conn.server.w.mu.Unlock()
		time.Sleep(50 * time.Millisecond)
		ch.conn.server.w.mu.Lock()
	}
}

func (ch *channel) refuse(code int) error {
	err := &amqp.Error{Code: code, Server: true}
	ch.closeLocked(err, false)
	return err
}

// slow calls f with the world locked, after the time that a call takes.
func (ch *channel) slow(f func(*server) error) error {
	if err := ch.conn.server.w.call(ch.conn.owner); err != nil {
		return err
	}
	return ch.fast(f)
}

func (ch *channel) fast(f func(*server) error) error {
	ch.conn.server.w.mu.Lock()
	defer ch.conn.server.w.mu.Unlock()
	if ch.closed {
		return amqp.ErrClosed
	}
	return f(ch.conn.server)
}

func (ch *channel) Qos(prefetch, _ int, _ bool) error {
	return ch.fast(func(*server) error { ch.prefetch = prefetch; return nil })
}

func (ch *channel) Ping(int) error { return ch.fast(func(*server) error { return nil }) }

func (ch *channel) Consume(name, tag string, _, exclusive, _, _ bool, _ amqp.Table) (<-chan amqp.Delivery, error) {
	c := &consumer{channel: ch, tag: tag, prefetch: ch.prefetch, exclusive: exclusive, unacked: make(map[uint64]message), deliveries: make(chan amqp.Delivery, 10000)}
	err := ch.slow(func(*server) error {
		q, err := ch.find(name)
		if err != nil {
			return err
		}
		if len(q.consumers) > 0 && (exclusive || q.consumers[0].exclusive) {
			return ch.refuse(amqp.AccessRefused)
		}
		c.queue = q
		ch.consumers, q.consumers = append(ch.consumers, c), append(q.consumers, c)
		q.dispatchLocked()
		return nil
	})
	return c.deliveries, err
}

func (ch *channel) Cancel(string, bool) error     { return errors.ErrUnsupported }
func (ch *channel) Nack(uint64, bool, bool) error { return errors.ErrUnsupported }
func (ch *channel) Confirm(bool) error            { return nil }

func (ch *channel) NotifyReturn(r chan amqp.Return) chan amqp.Return {
	ch.conn.server.w.mu.Lock()
	defer ch.conn.server.w.mu.Unlock()
	if ch.closed {
		close(r)
		return r
	}
	ch.returns = r
	return r
}

func (ch *channel) PublishWithContext(context.Context, string, string, bool, bool, amqp.Publishing) error {
	return errors.ErrUnsupported
}

func (ch *channel) Ack(tag uint64, multiple bool) error {
	acknowledge := func(*server) error {
		for _, c := range ch.consumers {
			for t := range c.unacked {
				if t == tag || multiple && t < tag {
					delete(c.unacked, t)
				}
			}
			c.queue.dispatchLocked()
		}
		return nil
	}
	ch.conn.server.w.calls.Go(func() { ch.slow(acknowledge) })
	return ch.fast(func(*server) error { return nil })
}

func (ch *channel) NotifyClose(n chan *amqp.Error) chan *amqp.Error {
	ch.conn.server.w.mu.Lock()
	defer ch.conn.server.w.mu.Unlock()
	if ch.closed {
		close(n)
		return n
	}
	ch.notify = append(ch.notify, n)
	return n
}

func (ch *channel) IsClosed() bool {
	ch.conn.server.w.mu.Lock()
	defer ch.conn.server.w.mu.Unlock()
	return ch.closed
}

func (ch *channel) Close() error {
	return ch.fast(func(*server) error { ch.closeLocked(nil, false); return nil })
}

// A confirmation is that of a message.
type confirmation struct {
	done  chan struct{}
	acked bool
}

func (c *confirmation) Done() <-chan struct{} { return c.done }
func (c *confirmation) Acked() bool           { return c.acked }

// Publish sends a message. If its queue hangs, what follows on the channel waits.
func (ch *channel) Publish(exchange, key string, mandatory bool, p amqp.Publishing) (publish.Confirmation, error) {
	w := ch.conn.server.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch.closed {
		return nil, amqp.ErrClosed
	}
	if p.Headers[markerHeader] != nil && p.Expiration != "" {
		w.t.Errorf("a marker expires after %s ms: it is lost if it takes longer to empty other queues", p.Expiration)
	}
	c, before := &confirmation{done: make(chan struct{})}, ch.last
	ch.last = c.done
	w.calls.Go(func() {
		<-before
		defer close(c.done)
		if w.call(ch.conn.owner) != nil {
			return
		}
		w.mu.Lock()
		q := ch.conn.server.route(exchange, key)
		for q != nil && q.hung && !ch.closed {
			if user, _ := strconv.Atoi(key); exchange == topology.DirectExchange {
				w.exempt[user] = true // while queues are bound, it may be another user's
			}
			w.mu.Unlock()
			time.Sleep(50 * time.Millisecond)
			w.mu.Lock()
		}
		returns, closed := ch.returns, ch.closed
		accepted := !closed && q != nil && !q.down && ch.conn.server.queues[q.name] == q
		full := q != nil && q.full
		if accepted && !full {
			ch.conn.server.enqueue(q, exchange, key, p)
		}
		w.mu.Unlock()
		if closed {
			return
		}
		if !accepted && mandatory && returns != nil {
			func() {
				defer func() { recover() }() // closed meanwhile
				returns <- amqp.Return{Headers: p.Headers}
			}()
		}
		c.acked = accepted && !full || !accepted && mandatory
	})
	return c, nil
}

func (ch *channel) QueueDeclare(name string, _, _, exclusive, _ bool, args amqp.Table) (amqp.Queue, error) {
	return amqp.Queue{Name: name}, ch.slow(func(s *server) error {
		if s.queues[name] == nil && s.limited {
			return ch.refuse(amqp.PreconditionFailed)
		}
		if s.queues[name] == nil {
			q := &queue{name: name}
			if q.kind, _ = args["x-queue-type"].(string); exclusive {
				q.owner = ch.conn
			}
			s.queues[name] = q
			return nil
		}
		if err := ch.check(name); err != nil || args["x-expires"] == nil {
			return err
		}
		return ch.refuse(amqp.PreconditionFailed) // it was declared without that
	})
}

func (ch *channel) check(name string) error {
	q, err := ch.find(name)
	if err == nil && q.owner != nil && q.owner != ch.conn {
		return ch.refuse(amqp.ResourceLocked)
	}
	return err
}

func (ch *channel) QueueDeclarePassive(name string, _, _, _, _ bool, _ amqp.Table) (amqp.Queue, error) {
	return amqp.Queue{Name: name}, ch.slow(func(*server) error { return ch.check(name) })
}

func (ch *channel) QueueBind(name, _, _ string, _ bool, _ amqp.Table) error {
	return ch.slow(func(s *server) error {
		if !slices.Contains(s.bound, name) {
			s.bound = append(s.bound, name)
			s.swaps = append(s.swaps, time.Now())
		}
		return nil
	})
}

func (ch *channel) QueueUnbind(name, _, _ string, _ amqp.Table) error {
	return ch.slow(func(s *server) error {
		if i := slices.Index(s.bound, name); i >= 0 && i < len(s.bound)-1 {
			s.swaps = append(s.swaps, time.Now())
		}
		s.bound = slices.DeleteFunc(s.bound, func(b string) bool { return b == name })
		return nil
	})
}

func (ch *channel) QueueDelete(name string, _, ifEmpty, _ bool) (int, error) {
	return 0, ch.slow(func(s *server) error {
		q, err := ch.find(name)
		switch {
		case err != nil:
			return err
		case ifEmpty && len(q.messages) > 0:
			return ch.refuse(amqp.PreconditionFailed)
		}
		for _, m := range q.messages {
			if m.d.Headers["ident-probe"] == nil {
				s.w.lost = append(s.w.lost, m.d.MessageId+" in "+name+" at "+strconv.FormatInt(time.Now().Unix(), 10))
			}
		}
		delete(s.queues, name)
		s.bound = slices.DeleteFunc(s.bound, func(b string) bool { return b == name })
		return nil
	})
}

func (ch *channel) ExchangeDeclare(string, string, bool, bool, bool, bool, amqp.Table) error {
	return nil
}

func (ch *channel) ExchangeDeclarePassive(string, string, bool, bool, bool, bool, amqp.Table) error {
	return ch.slow(func(*server) error { return nil })
}
