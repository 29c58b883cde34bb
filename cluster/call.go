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
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/topology"
)

var errPanic = errors.New("panic")

// A call is a request that was taken, on its way to its end: it is answered,
// passed on, or left to the broker, which gives it to somebody else.
type call struct {
	*session
	amqp.Delivery
	consumer *consume.Consumer // by which it came
	taken    time.Time
	trace    *requestTrace // nil: none
	ended    sync.Once
}

// begin notes that a call is under way.
func (c *call) begin() {
	c.consumer.Requests.Add(1)
	c.metrics.inFlight.Inc()
	c.metrics.bytes.Add(float64(len(c.Body)))
	if c.o.Tracer != nil {
		c.trace = traceRequest(c.o.Tracer, c)
	}
}

// end gives back what a call holds. Where it was answered, after is how long that
// took; else it is 0.
func (c *call) end(outcome string, after time.Duration) {
	c.metrics.ended(c.operation(), c.way(), outcome, after)
	c.trace.end(outcome)
	c.metrics.inFlight.Dec()
	c.metrics.bytes.Sub(float64(len(c.Body)))
	c.bodies.Release(c.weight())
	c.consumer.Requests.Done()
}

// guard, deferred, makes a panic cost no more than the request that caused it.
func (c *call) guard() {
	if r := recover(); r != nil {
		c.metrics.panics.Inc()
		c.o.Log.Error("panic", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
		c.fail(errPanic)
	}
}

// spawn runs f beside the router.
func (c *call) spawn(f func()) {
	go func() {
		defer c.guard()
		f()
	}()
}

// answerOr answers, or fails where there is an error.
func (c *call) answerOr(answer []byte, err error) {
	if err != nil {
		c.fail(err)
		return
	}
	c.answer(answer)
}

// fail answers a request that could not be carried out. When the session is
// over it leaves the request to the broker.
func (c *call) fail(err error) {
	switch {
	case c.ctx.Err() != nil:
		c.leave()
	case errors.Is(err, errStuck):
		c.metrics.overloads.WithLabelValues(overloadPartition).Inc()
		c.answer(actor.ErrorReply(actor.InternalError("the queue of the user's partition takes nothing in")))
	default:
		c.answer(actor.ErrorReply(actor.InternalError("the request could not be carried out")))
	}
}

// leave neither answers nor acknowledges a request: when its channel ends, the
// broker delivers it again.
func (c *call) leave() { c.ended.Do(c.left) }

func (c *call) left() { c.end(outcomeLeft, 0) }

func (c *call) weight() int64 { return min(int64(len(c.Body)), c.o.InFlight) }

// answer sends the answer to a request, and then has it acknowledged. It waits for
// nothing but the socket: where it has to be found out first whether the caller
// can be answered, that is done beside.
func (c *call) answer(body []byte) {
	c.ended.Do(func() {
		if c.ReplyTo == "" || c.replies.Decided(c.ReplyTo, c.Redelivered) {
			c.send(body)
		} else {
			go c.send(body)
		}
	})
}

func (c *call) send(body []byte) {
	if c.ctx.Err() != nil {
		c.left()
		return
	}
	if c.ReplyTo != "" {
		switch err := c.reply(body); {
		case errors.Is(err, broker.ErrReplyTo):
			c.metrics.unanswered.Inc()
			if n := c.dropped.count(); n > 0 {
				c.o.Log.Warn("answer dropped", zap.Error(err), zap.Int64("since_last_told", n))
			}
		case errors.Is(err, amqp.ErrClosed):
			c.left()
			return
		case err != nil:
			c.putBack("request not answered; it comes again", err)
			return
		}
	}
	c.acknowledge()
	outcome := outcomeOK
	if code := actor.ErrorCode(body); code != "" {
		outcome = string(code)
	}
	c.end(outcome, time.Since(c.taken))
}

func (c *call) reply(body []byte) error {
	if err := c.replies.Check(c.ctx, c.ReplyTo, c.Redelivered); err != nil {
		return err
	}
	span, headers := c.trace.startReply(&c.Delivery, len(body))
	err := c.consumer.Publish(c.ctx, c.ReplyTo, amqp.Publishing{
		CorrelationId: c.CorrelationId,
		ContentType:   "application/msgpack",
		Headers:       headers,
		Body:          body,
	})
	span.End(err == nil)
	return err
}

// acknowledge has a request acknowledged soon. One that could not be told from
// another, should it come again, is acknowledged now.
func (c *call) acknowledge() {
	nameless := c.MessageId == "" && (c.ReplyTo == "" || c.CorrelationId == "")
	needsFlush, err := c.consumer.Ack(&c.Delivery, nameless)
	if needsFlush {
		c.unacknowledged.Put(c.consumer)
	}
	if err != nil && !errors.Is(err, amqp.ErrClosed) {
		c.o.Log.Warn("request carried out and not acknowledged; it comes again", zap.Error(err))
	}
}

// putBackAfter keeps a request that cannot be answered from coming again at once.
const putBackAfter = time.Second

// putBack ends a call by giving the request back to the broker, after a while:
// if it was carried out, it gets the same answer when it comes again. It does
// not wait.
func (c *call) putBack(what string, err error) {
	c.o.Log.Warn(what, zap.Error(err))
	go func() {
		defer c.end(outcomePutBack, 0)
		select {
		case <-time.After(putBackAfter):
			c.consumer.Requeue(&c.Delivery) // fails only when the channel is closed, which has the same effect
		case <-c.ctx.Done():
		}
	}()
}

// operationName returns what the request asks for, as its routing key or, where
// it came the direct way or was passed on, its type says.
func (c *call) operationName() string {
	if c.Exchange == topology.DirectExchange || c.consumer.Queue != RequestQueue {
		return c.Type
	}
	return c.RoutingKey
}

// operation returns what follows "rpc.user." in the operation's name, "" where
// nothing does.
func (c *call) operation() string {
	operation, ok := strings.CutPrefix(c.operationName(), topology.RequestPrefix)
	if !ok {
		return ""
	}
	return operation
}

// way says by which way the request came.
func (c *call) way() string {
	switch {
	case c.consumer.Queue == RequestQueue:
		return wayShared
	case c.Exchange == topology.DirectExchange:
		return wayDirect
	}
	return wayPassedOn
}
