package cluster

import (
	"errors"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
)

var errPanic = errors.New("panic")

// A call is a request that was taken, on its way to its answer.
type call struct {
	*session
	amqp.Delivery
	ended sync.Once
}

// route sees to it that a request is carried out and answered. It does not wait
// for that.
func (s *session) route(d amqp.Delivery) {
	c := &call{session: s, Delivery: d}
	s.budget.take(int64(len(d.Body)))
	s.inFlight.Add(1)
	defer c.guard()

	request, refusal := actor.Parse(operationOf(&d), d.Body,
		actor.IdentityOf(d.MessageId, d.ReplyTo, d.CorrelationId), s.o.Limits)
	switch {
	case refusal != nil:
		c.spawn(func() { c.answer(actor.AnswerRefusal(refusal)) })
	case request.Get != nil:
		c.spawn(func() { c.get(request.Get) })
	case request.List != nil:
		c.spawn(func() { c.list(request.List) })
	default:
		request.Write.TraceParent = traceParent(&d)
		c.write(request.Write)
	}
}

// operationOf returns what follows "rpc.user." in the routing key or, where the
// request came the direct way, in its type. It is "" where nothing does.
func operationOf(d *amqp.Delivery) string {
	name := d.RoutingKey
	if d.Exchange == directExchange {
		name = d.Type
	}
	operation, ok := strings.CutPrefix(name, requestPrefix)
	if !ok {
		return ""
	}
	return operation
}

// spawn runs f beside the router.
func (c *call) spawn(f func()) {
	go func() {
		defer c.guard()
		f()
	}()
}

// guard, deferred, makes a panic cost no more than the request that caused it.
func (c *call) guard() {
	if r := recover(); r != nil {
		c.o.Log.Error("panic", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
		c.fail(errPanic)
	}
}

func (c *call) get(l *actor.Lookup) {
	user, err := c.o.Store.Find(c.ctx, l)
	switch {
	case err != nil:
		c.fail(err)
	case user == nil:
		c.answer(actor.AnswerRefusal(actor.NoSuchUser))
	default:
		c.answer(actor.AnswerUser(user))
	}
}

func (c *call) list(page *actor.Page) {
	users, next, err := c.o.Store.List(c.ctx, page)
	if err != nil {
		c.fail(err)
		return
	}
	c.answer(actor.AnswerPage(users, next))
}

// write hands a write over to its user's actor. One that is refused whatever is
// stored has no user.
func (c *call) write(w *actor.Write) {
	done := func(o actor.Outcome, err error) {
		defer c.guard()
		if err != nil {
			c.fail(err)
			return
		}
		c.answer(w.Answer(o))
	}
	deliver := func() {
		if err := c.partition.Deliver(actor.Task{Write: w, Done: done}); err != nil {
			c.spawn(func() { c.fail(err) })
		}
	}
	switch {
	case w.Refused() != nil:
		c.spawn(func() { done(c.o.Store.Commit(c.ctx, w)) })
	case w.Creates():
		c.spawn(func() {
			id, err := c.o.Store.NewUserID(c.ctx)
			if err != nil {
				c.fail(err)
				return
			}
			w.UserID = id
			deliver()
		})
	default:
		deliver()
	}
}

// fail answers a request that could not be carried out. When the session is
// over it leaves the request to the broker, which gives it to somebody else.
func (c *call) fail(err error) {
	switch {
	case c.ctx.Err() != nil:
		c.ended.Do(c.end)
	case errors.Is(err, actor.ErrMailboxFull):
		c.answer(actor.AnswerRefusal(actor.Failed("too many requests wait for this user")))
	default:
		c.answer(actor.AnswerRefusal(actor.Failed("the request could not be carried out")))
	}
}

// end gives back what a call holds.
func (c *call) end() {
	c.budget.give(int64(len(c.Body)))
	c.inFlight.Done()
}

// answer sends the answer to a request, and then acknowledges it.
func (c *call) answer(body []byte) {
	c.ended.Do(func() {
		defer c.end()
		if c.ctx.Err() != nil {
			return
		}
		if c.ReplyTo != "" {
			switch err := c.reply(body); {
			case errors.Is(err, broker.ErrReplyTo):
				c.o.Log.Warn("answer dropped", zap.Error(err))
			case err != nil:
				c.putBack(err)
				return
			}
		}
		if err := c.Ack(false); err != nil && !errors.Is(err, amqp.ErrClosed) {
			c.o.Log.Warn("request answered and not acknowledged; it comes again", zap.Error(err))
		}
	})
}

func (c *call) reply(body []byte) error {
	if err := c.replies.Check(c.ctx, c.ReplyTo, c.Redelivered); err != nil {
		return err
	}
	return c.requests.PublishWithContext(c.ctx, "", c.ReplyTo, false, false, amqp.Publishing{
		CorrelationId: c.CorrelationId,
		ContentType:   "application/msgpack",
		Headers:       traceHeaders(traceParent(&c.Delivery)),
		Body:          body,
	})
}

// putBackAfter keeps a request that cannot be answered from coming again at once.
const putBackAfter = time.Second

// putBack gives a request that was carried out and could not be answered back
// to the broker: when it comes again, it gets the same answer.
func (c *call) putBack(err error) {
	c.o.Log.Warn("request not answered; it comes again", zap.Error(err))
	select {
	case <-time.After(putBackAfter):
		c.Nack(false, true) // fails only with the session, which has the same effect
	case <-c.ctx.Done():
	}
}

const traceHeader = "traceparent"

// traceParent returns the W3C trace context that a request came with, "" if it
// has none that is well-formed.
func traceParent(d *amqp.Delivery) string {
	parent, _ := d.Headers[traceHeader].(string)
	if len(parent) < 55 || len(parent) > 255 || strings.ContainsFunc(parent, notInTrace) {
		return ""
	}
	return parent
}

func notInTrace(r rune) bool {
	return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r == '-')
}

func traceHeaders(parent string) amqp.Table {
	if parent == "" {
		return nil
	}
	return amqp.Table{traceHeader: parent}
}
