package cluster

import (
	"context"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/internal/tracing"
	"github.com/glotpod/ident/cluster/partition"
)

// take takes the requests of a line until that ends or ctx is done.
func (s *session) take(ctx context.Context, l *consume.Consumer, of *holding) {
	for d := range l.Deliveries {
		c := &call{session: s, Delivery: d, consumer: l, taken: time.Now()}
		l.Track(&d)
		if ctx.Err() != nil || s.bodies.Acquire(ctx, c.weight()) != nil {
			return
		}
		c.begin()
		s.route(c, of)
	}
}

// route sees to it that a request is carried out and answered, or passed on. It
// does not wait for that. of is the partition whose queue it came by, nil for
// the shared queue.
//
// What came by a partition's queue, and is about a user of that partition, is
// handed to the partition's actors in order. What came by the shared queue goes
// there too if this instance holds the user's partition; else a read is done
// here, since the database has all that was answered, and a write is passed on.
func (s *session) route(c *call, of *holding) {
	defer c.guard()
	if of == nil {
		s.taken.count()
	} else {
		of.taken.count()
		s.checkPlace(&c.Delivery, of)
	}
	request, refusal := actor.Parse(c.operation(), c.Body,
		actor.RequestIDOf(c.MessageId, c.ReplyTo, c.CorrelationId), s.o.Limits)
	c.trace.routed(c.taken)
	switch {
	case refusal != nil:
		c.spawn(func() { c.answer(actor.ErrorReply(refusal)) })
	case request.Get != nil:
		c.get(request.Get, of)
	case request.List != nil:
		c.spawn(func() { c.list(request.List) })
	default:
		request.Write.TraceParent = tracing.Parent(&c.Delivery)
		c.trace.attach(request.Write)
		c.write(request.Write, of)
	}
}

// checkPlace notes whether the exchange has brought a request to the queue that
// it should bring it to.
func (s *session) checkPlace(d *amqp.Delivery, of *holding) {
	if d.Exchange == topology.DirectExchange && partition.OfKey(d.RoutingKey, s.o.Partitions) != of.lease.Partition {
		s.metrics.misrouted.Inc()
		s.repairer.ReportMisrouted()
	}
}

// get reads a user.
func (c *call) get(l *actor.Lookup, of *holding) {
	if id, ok := l.ByIDAlone(); ok {
		number := partition.Of(id, c.o.Partitions)
		h := c.held(number)
		switch {
		case of != nil && of.lease.Partition == number:
			h = of
		case of != nil: // in order with the writes that came the same way
			c.pass(number, 0, 0)
			return
		}
		if h != nil {
			get := h.users.Get
			if h == of {
				get = h.users.GetFromQueue
			}
			c.read(l, id, get, func() {
				if h == of {
					c.leave() // its line is being closed
				} else {
					c.spawn(func() { c.find(l) })
				}
			})
			return
		}
	} else if answer := c.warm(l); answer != nil {
		c.answer(answer)
		return
	}
	c.spawn(func() { c.find(l) })
}

// warm returns the answer about a user who is found by something else than the
// id, if the user is warm here; nil otherwise.
func (c *call) warm(l *actor.Lookup) []byte {
	id := c.cache.FindID(l)
	if id == 0 {
		return nil
	}
	h := c.held(partition.Of(id, c.o.Partitions))
	if h == nil {
		return nil
	}
	return h.users.GetCached(id, l)
}

// read has a partition read a user. If it stops before it calls elsewhere. Where
// too many wait for that user, the database is asked: it has all that was answered.
func (c *call) read(l *actor.Lookup, id int64, get func(int64, func([]byte, error)) error, elsewhere func()) {
	c.trace.readStarts()
	err := get(id, func(answer []byte, err error) {
		defer c.guard()
		c.trace.readEnds()
		if isStopped(err) {
			elsewhere()
			return
		}
		c.answerOr(answer, err)
	})
	switch {
	case err == nil:
	case isStopped(err):
		elsewhere()
	default:
		c.spawn(func() { c.find(l) })
	}
}

func isStopped(err error) bool {
	return errors.Is(err, actor.ErrStopped) || errors.Is(err, actor.ErrFenced)
}

func (c *call) find(l *actor.Lookup) {
	c.trace.readStarts()
	user, err := c.o.Store.Find(c.ctx, l)
	c.trace.readEnds()
	switch {
	case err != nil:
		c.fail(err)
	case user == nil:
		c.answer(actor.ErrorReply(actor.NoSuchUser))
	default:
		c.answer(actor.UserReply(user))
		if h := c.held(partition.Of(user.ID, c.o.Partitions)); h != nil {
			h.users.Prefetch(user.ID) // it may be asked for again
		}
	}
}

func (c *call) list(page *actor.Page) {
	c.trace.readStarts()
	users, next, err := c.o.Store.List(c.ctx, page)
	c.trace.readEnds()
	if err != nil {
		c.fail(err)
		return
	}
	c.answer(actor.PageReply(users, next))
}

// write has a write carried out. One that is refused whatever is stored has no
// user, and needs no partition.
func (c *call) write(w *actor.Write, of *holding) {
	switch {
	case w.Refusal() != nil:
		c.spawn(func() {
			outcomes, err := c.o.Store.Commit(c.ctx, partition.Lease{}, []*actor.Write{w})
			if err != nil {
				c.fail(err)
				return
			}
			c.answer(w.Reply(outcomes[0]))
		})
	case w.IsCreate():
		c.create(w, of)
	default:
		c.writeTo(partition.Of(w.UserID, c.o.Partitions), w, of)
	}
}

// create has a create carried out, for the id that another instance has drawn or, where
// none has, for one that is drawn now.
func (c *call) create(w *actor.Write, of *holding) {
	as := func(id int64, of *holding) {
		w.UserID = id
		c.writeTo(partition.Of(id, c.o.Partitions), w, of)
	}
	if id, ok := c.drawn(of); ok {
		as(id, of)
		return
	}
	if id := c.o.Store.ReservedUserID(); id != 0 {
		as(id, nil)
		return
	}
	c.spawn(func() {
		id, err := c.o.Store.NewUserID(c.ctx)
		if err != nil {
			c.fail(err)
			return
		}
		as(id, nil)
	})
}

// drawn returns the id that another instance has drawn for the user whom a
// create makes.
func (c *call) drawn(of *holding) (user int64, ok bool) {
	if of == nil {
		return 0, false
	}
	sealed, _ := c.Headers[userHeader].([]byte)
	return secret(c.o.Secret).openUser(sealed, c.Body)
}

// writeTo hands a write to the actors of its user's partition, or passes it on
// to that partition's queue. There a write also waits that came by the shared queue
// when too many were waiting for its user.
func (c *call) writeTo(number int, w *actor.Write, of *holding) {
	own := of != nil && of.lease.Partition == number
	h := of
	if !own {
		h = c.held(number)
	}
	user := int64(0)
	if w.IsCreate() {
		user = w.UserID
	}
	if h == nil {
		c.pass(number, user, 0)
		return
	}
	elsewhere := func() {
		if own {
			c.leave() // its line is being closed
		} else {
			c.pass(number, user, 0)
		}
	}
	wait := func() {
		c.metrics.overloads.WithLabelValues(overloadMailbox).Inc()
		c.pass(number, user, h.overflow.add(w.UserID))
	}
	if !own && h.overflow.has(w.UserID) {
		wait()
		return
	}
	w.FromQueue = own
	err := h.users.Write(w, func(o actor.Outcome, err error) {
		defer c.guard()
		switch {
		case err == nil:
			c.answer(w.Reply(o))
		case isStopped(err):
			elsewhere()
		default:
			c.fail(err)
		}
	})
	switch {
	case err == nil:
		if mark, ok := c.Headers[turnHeader].(int64); own && ok {
			h.overflow.remove(w.UserID, mark)
		}
	case isStopped(err):
		elsewhere()
	default:
		wait()
	}
}

// pass passes a request on to a partition's queue, and is done with it when the
// broker has it. For a create, user is the id that was drawn; mark is one of the
// partition's overflow, where there is any.
func (c *call) pass(number int, user, mark int64) {
	if c.ctx.Err() != nil {
		c.leave()
		return
	}
	c.metrics.forwarded.Inc()
	switch err := c.hops.pass(c, number, user, mark); {
	case errors.Is(err, errStuck):
		c.spawn(func() { c.fail(err) })
	case err != nil:
		c.leave() // the session ends
	}
}

// held returns the partition of this number, nil unless it is held here and
// takes requests.
func (s *session) held(number int) *holding { return s.slots[number].held.Load() }

// fenced ends a partition whose lease is over.
func (s *session) fenced(lease partition.Lease) {
	s.o.Log.Warn("partition lost", zap.Int("partition", lease.Partition), zap.Int64("epoch", lease.Epoch))
	s.metrics.fenced.Inc()
	s.lostLease(lease)
}
