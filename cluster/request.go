package cluster

import (
	"errors"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/relay"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/wait"
)

var errPanic = errors.New("panic")

// A request is one that was received and is not yet complete. It becomes complete once:
// with a reply, when it was forwarded, or when it is left to the broker, which delivers
// it again.
type request struct {
	session  *session
	from     *servedPartition  // the request came by its queue; nil: by the shared queue
	consumer *consume.Consumer // by which it came
	relayed  *relayedFrom      // another instance has relayed the request; nil: it came by one of the queues for callers
	delivery amqp.Delivery
	received time.Time
	size     int           // as the budget counts it
	trace    *requestTrace // nil: no tracing

	expiration expiration
	caller     string // the caller's login at the broker, "" if it is not known
	sender     sender // the caller or group of callers that takes turns; unset if the request was relayed

	writeID     actor.RequestID // the request id, if it is a write
	writeIDMade bool            // writeID was made here: another delivery of the request gets another one

	firstReceived time.Time // as actor.Write has it

	onlyThisUserID bool // a create that must not be carried out for another user id

	completed sync.Once // done by whichever way of completing it comes first
}

// start counts the request as in flight.
func (r *request) start() {
	s := r.session
	r.consumer.Requests.Add(1)
	if isShared(r) && s.prefer.Begin(r.received) {
		s.running.Go(s.shared.Replace)
	}
	s.metrics.InFlight.Inc()
	s.metrics.Bytes.Add(float64(r.size))
	if s.o.Tracer != nil {
		r.trace = traceRequest(s.o.Tracer, r)
	}
}

// complete releases what the request occupies. duration is the time until the reply; 0
// if there was none. complete is called once.
func (r *request) complete(outcome string, duration time.Duration) {
	s := r.session
	s.metrics.Completed(r.operation(), r.way(), outcome, r.caller, duration)
	r.trace.end(outcome)
	s.metrics.InFlight.Dec()
	s.metrics.Bytes.Sub(float64(r.size))
	s.bodies.Release(s.bodies.Weight(r.size)) // as consume.Receive and relayConsumer.accepting have acquired it
	if isShared(r) {
		s.prefer.End()
		s.turns.Done(r.sender, time.Now())
	}
	r.consumer.Requests.Done()
}

// callerHeader has the login of the caller of a forwarded request, sealed by a [seal.Sealer].
const callerHeader = "ident-caller"

// callerOf returns the login of a request's caller: the one that the instance that has forwarded
// the request sends along, or else the property that the broker has compared with the login of
// the connection by which the request came. It returns "" if there is none, or one that is no
// text.
func callerOf(sealer seal.Sealer, d *amqp.Delivery) string {
	login := d.UserId
	if sealed, ok := d.Headers[callerHeader].([]byte); ok {
		login, _ = sealer.OpenCaller(sealed, sealedRequest(d, d.ReplyTo))
	}
	if !utf8.ValidString(login) || strings.ContainsRune(login, 0) {
		return ""
	}
	return login
}

// sealedRequest returns what the seal of a request's caller holds for.
func sealedRequest(d *amqp.Delivery, replyTo string) seal.Request {
	return seal.Request{Operation: operationName(d), ReplyTo: replyTo, CorrelationID: d.CorrelationId, Body: d.Body}
}

// hidesTokens reports whether the caller must not learn access tokens.
func hidesTokens(r *request) bool {
	readers := r.session.o.TokenReaders
	return readers != nil && (r.caller == "" || !slices.Contains(readers, r.caller))
}

// replyUser sends a reply to a get. body may be shared.
func replyUser(r *request, body []byte) {
	if hidesTokens(r) {
		body = actor.WithoutTokens(body)
	}
	r.reply(body)
}

// isShared reports whether the request came by the shared queue.
func isShared(r *request) bool { return r.from == nil && r.relayed == nil }

// recoverPanic, deferred, makes a panic cost only the request that caused it.
func (r *request) recoverPanic() {
	if v := recover(); v != nil {
		r.session.metrics.Panics.Inc()
		requestLog(r).Error("panic", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
		r.replyError(errPanic)
	}
}

// spawn runs f in a goroutine of its own.
func (r *request) spawn(f func()) {
	go func() {
		defer r.recoverPanic()
		f()
	}()
}

// replyOr sends a reply, or an error reply if err is not nil.
func (r *request) replyOr(body []byte, err error) {
	if err != nil {
		r.replyError(err)
		return
	}
	r.reply(body)
}

// replyError replies that the request could not be carried out. After the end of the
// session it leaves the request to the broker.
func (r *request) replyError(err error) {
	switch {
	case r.session.ctx.Err() != nil:
		r.leave()
	case errors.Is(err, errPartitionOverdue):
		r.session.metrics.Overloads.WithLabelValues(metrics.OverloadPartition).Inc()
		r.reply(actor.ErrorReply(actor.QueueUnavailable))
	default:
		if r.session.prefer.NoteFailure(time.Now()) {
			r.session.running.Go(r.session.shared.Replace)
		}
		r.reply(actor.ErrorReply(actor.InternalError("the request could not be carried out")))
	}
}

// drop acknowledges a request that is not carried out and gets no reply: it has expired, or
// is a probe.
func (r *request) drop(outcome string) {
	r.completed.Do(func() {
		r.acknowledge()
		r.complete(outcome, 0)
	})
}

// leave neither replies to nor acknowledges the request: when its channel is closed, the
// broker delivers it again. A request that was relayed goes to its partition's queue.
func (r *request) leave() { r.completed.Do(r.completeLeft) }

func (r *request) completeLeft() {
	if r.relayed != nil {
		r.relayed.report(r.session, relay.Refused)
	}
	r.complete(metrics.OutcomeLeft, 0)
}

// reply sends a reply, and then has the request acknowledged. It blocks only on the
// socket: if it must first be found out whether the reply queue exists, or whether the
// broker accepts a reply of that size, it continues in the background.
func (r *request) reply(body []byte) {
	r.completed.Do(func() {
		d := &r.delivery
		if d.ReplyTo == "" || r.session.sizes.Accepts(len(body)) && r.session.replies.Decided(d.ReplyTo, d.Redelivered) {
			r.sendReply(body)
		} else {
			go r.sendReply(body)
		}
	})
}

func (r *request) sendReply(body []byte) {
	s := r.session
	if s.ctx.Err() != nil {
		r.completeLeft()
		return
	}
	if r.delivery.ReplyTo != "" {
		var err error
		if !s.sizes.Accepts(len(body)) {
			body, err = s.sizes.Reply(body, append(traceFields(r), zap.String("operation", r.operation()))...)
		}
		if err == nil {
			err = r.publishReply(body)
		}
		switch {
		case errors.Is(err, broker.ErrReplyTo):
			s.metrics.Unanswered.Inc()
			s.droppedReplies.Log(1, append(traceFields(r), zap.Error(err))...)
		case errors.Is(err, amqp.ErrClosed):
			r.completeLeft()
			return
		case err != nil:
			r.requeue("reply not sent; the request is delivered again", err)
			return
		}
	}
	r.acknowledge()
	outcome := metrics.OutcomeOK
	if code := actor.ErrorCode(body); code != "" {
		outcome = string(code)
	}
	r.complete(outcome, time.Since(r.received))
}

func (r *request) publishReply(body []byte) error {
	s, d := r.session, &r.delivery
	if err := s.replies.Check(s.ctx, d.ReplyTo, d.Redelivered); err != nil {
		return err
	}
	span, headers := r.trace.startReply(d, len(body))
	err := r.consumer.Publish(s.ctx, d.ReplyTo, amqp.Publishing{
		CorrelationId: d.CorrelationId,
		ContentType:   "application/msgpack",
		Headers:       headers,
		Body:          body,
	})
	span.End(err == nil)
	return err
}

// acknowledge has the request acknowledged soon; at once if it is a write that has got
// another request id when it is delivered again.
func (r *request) acknowledge() {
	if r.relayed != nil {
		r.relayed.report(r.session, relay.Done)
		return
	}
	needsFlush, err := r.consumer.Ack(&r.delivery, r.writeIDMade)
	if needsFlush {
		r.session.acks.Add(r.consumer)
	}
	if err != nil && !errors.Is(err, amqp.ErrClosed) {
		requestLog(r).Warn("request carried out and not acknowledged; it is delivered again", zap.Error(err))
	}
}

// requeueDelay keeps a request without a reply from being delivered again in a tight
// loop.
const requeueDelay = time.Second

// requeue gives the request back to the broker after a delay. If it was carried out, it
// gets the same reply when it is delivered again. requeue does not block.
func (r *request) requeue(message string, err error) {
	requestLog(r).Warn(message, zap.Error(err))
	if r.relayed != nil {
		giveBack(r)
		return
	}
	go func() {
		defer r.complete(metrics.OutcomeRequeued, 0)
		if wait.For(r.session.ctx, requeueDelay) == nil {
			r.consumer.Requeue(&r.delivery) // fails only if the channel is closed, which has the same effect
		}
	}()
}

// giveBack has a request that was relayed sent to its partition's queue.
func giveBack(r *request) {
	r.relayed.report(r.session, relay.Returned)
	r.complete(metrics.OutcomeRequeued, 0)
}

// way returns the way by which the request came, as the metrics have it.
func (r *request) way() string {
	switch {
	case r.consumer.Queue == RequestQueue:
		return metrics.WayShared
	case r.delivery.Exchange == topology.DirectExchange:
		return metrics.WayDirect
	}
	return metrics.WayForwarded
}

// maxDeathsRead bounds how many entries of a header x-death are read, and how many routing
// keys of each entry.
const maxDeathsRead = 8

// operationName returns the name of the operation with its prefix, "" if the message has
// none. It is the routing key or, if the request was sent directly, was forwarded or was
// moved between queues, the type. A message that was dead-lettered without a type keeps
// its first routing key in x-death.
func operationName(d *amqp.Delivery) string {
	switch {
	case d.Exchange != topology.DirectExchange && hasRequestPrefix(d.RoutingKey):
		return d.RoutingKey
	case hasRequestPrefix(d.Type):
		return d.Type
	}
	return deadLetteredAs(d.Headers)
}

func hasRequestPrefix(name string) bool { return strings.HasPrefix(name, topology.RequestPrefix) }

// deadLetteredAs returns the latest routing key with the prefix of requests that a message
// had before it was dead-lettered, "" if there is none. The broker puts the latest
// dead-lettering first. A client can put anything into the header.
func deadLetteredAs(headers amqp.Table) string {
	deaths, _ := headers["x-death"].([]any)
	for _, entry := range deaths[:min(len(deaths), maxDeathsRead)] {
		death, _ := entry.(amqp.Table)
		keys, _ := death["routing-keys"].([]any)
		for _, v := range keys[:min(len(keys), maxDeathsRead)] {
			if key, _ := v.(string); hasRequestPrefix(key) {
				return key
			}
		}
	}
	return ""
}

// operation returns the name of the request's operation without its prefix, "" if it has
// none.
func (r *request) operation() string {
	return strings.TrimPrefix(operationName(&r.delivery), topology.RequestPrefix)
}

// An expiration says when a request expires.
type expiration struct {
	property string    // of the message, usually a number of milliseconds
	at       time.Time // zero: the request does not expire
}

// expirationOf returns the expiration of a request. The broker does not tell how long the
// request was in the queue, so it expires at the latest possible time. A request with the
// expiration 0 was delivered at once, and does not expire after that.
func expirationOf(d *amqp.Delivery, received time.Time) expiration {
	e := expiration{property: d.Expiration}
	if e.property == "" {
		return e
	}
	if ms, err := strconv.ParseUint(e.property, 10, 32); err == nil && ms > 0 {
		e.at = received.Add(time.Duration(ms) * time.Millisecond)
	}
	return e
}

// isOver reports whether the request has expired since it was received.
func (e expiration) isOver() bool { return !e.at.IsZero() && time.Now().After(e.at) }

// rest returns the property of a copy of the request that is sent now.
func (e expiration) rest() string {
	if e.at.IsZero() {
		return e.property
	}
	return strconv.FormatInt(max(1, time.Until(e.at).Milliseconds()), 10)
}
