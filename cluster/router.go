package cluster

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/internal/tracing"
	"github.com/glotpod/ident/cluster/partition"
)

// receive routes the requests of a consumer until it has ended or ctx is done. from is the
// partition with the queue that it consumes, nil if that is the shared queue. If the
// size of its requests asks for another prefetch count, receive returns that one, else 0.
func (s *session) receive(ctx context.Context, consumer *consume.Consumer, from *servedPartition) (next int) {
	_, prefetch := s.prefer.Consumer()
	if from != nil {
		prefetch = s.channels.Prefetch()
	}
	return consumer.Receive(ctx, s.bodies, prefetch, func(d amqp.Delivery, received time.Time, size int) {
		r := &request{session: s, from: from, consumer: consumer, delivery: d, received: received, size: size}
		r.expiration = expirationOf(&r.delivery, r.received)
		r.caller = callerOf(seal.Sealer(s.o.Secret), &r.delivery)
		r.start()
		admit(r)
	})
}

// admit has a request routed: at once, or when it is the turn of its caller.
func admit(r *request) {
	r.sender = senderOf(r)
	if !isShared(r) {
		r.route()
		return
	}
	s, now := r.session, time.Now() // it may have waited for room for its body since it was received
	switch atOnce, closed := s.turns.Add(r.sender, r, now); {
	case atOnce:
		r.route()
	case closed:
		putBack(r)
	}
	// While the connection is blocked, a consumer cannot be replaced.
	if !s.blocked.consuming.Load() && s.prefer.NoteCallers(now, s.turns.Callers()) {
		s.running.Go(s.shared.Replace)
	}
}

// limitTurns sets how many requests of the shared queue may be under way. While several callers ask, at
// least as many again can wait for their turn.
func limitTurns(s *session) {
	s.turns.SetLimit(min(s.prefer.UnderWay(s.o.Prefetch), (consume.RoomFor(s.o.Prefetch)+1)/2))
}

// A sender is one or several callers whose requests wait for their turn together. The broker has compared
// login with that of the connection. Anyone may use any number of other names, so callers without a
// login are divided into a fixed number of groups by a hash of what they call themselves, or where their
// replies go. This is stochastic fairness queueing, after McKenney (1990).
type sender struct {
	login string
	group uint64
}

// senderGroups is the number of groups of callers without a login.
const senderGroups = 128

var senderSeed = maphash.MakeSeed()

func senderOf(r *request) sender {
	if r.caller != "" {
		return sender{login: r.caller}
	}
	return sender{group: groupOf(cmp.Or(r.delivery.AppId, r.delivery.ReplyTo))}
}

func groupOf(name string) uint64 { return maphash.String(senderSeed, name) % senderGroups }

// putBack gives a request that was not begun back to the broker, which delivers it to another
// instance.
func putBack(r *request) {
	if r.session.ctx.Err() != nil {
		r.leave()
		return
	}
	r.completed.Do(func() {
		r.consumer.Requeue(&r.delivery) // fails only if the channel is closed, which has the same effect
		r.complete(metrics.OutcomeRequeued, 0)
	})
}

// putBackAll gives requests that were not begun back to the broker, in the order in which they came.
func putBackAll(waiting []*request) {
	slices.SortFunc(waiting, func(a, b *request) int { return cmp.Compare(a.delivery.DeliveryTag, b.delivery.DeliveryTag) })
	for _, r := range waiting {
		putBack(r)
	}
}

// route has a request carried out and replied to, or forwards it. It does not wait until
// that is done.
//
// A request from a partition's queue about a user of that partition goes to the
// partition's actors, in order. A request from the shared queue goes to the actors as
// well if this instance serves the user's partition. Otherwise a read is carried out
// here, since the database contains all writes that were replied to, and a write is
// forwarded. A request that the shared queue may drop when it comes back again is copied
// instead: a write to its partition's queue, which has no such limit, and anything else to
// the end of the shared queue.
func (r *request) route() {
	defer r.recoverPanic()
	s, d := r.session, &r.delivery
	r.checkRouting()
	if topology.IsProbe(d) {
		answerAsk(r)
		r.drop(metrics.OutcomeProbe)
		return
	}
	if r.from == nil {
		s.requests.Count()
	} else {
		r.from.requests.Count()
	}
	if r.expiration.isOver() {
		// A spilled write goes on to its mailbox, which drops it, so that its mark is removed.
		if _, spilled := spillMark(d.Headers); !spilled {
			r.drop(metrics.OutcomeExpired)
			return
		}
	}
	operation := r.operation()
	if operation == "" {
		s.nameless.Log(1, append(traceFields(r), zap.String("queue", r.consumer.Queue), zap.String("exchange", d.Exchange))...)
	}
	parsed, refusal := actor.Parse(operation, d.Body, r.requestID(), s.o.Limits)
	r.trace.routed(r.received)
	switch {
	case r.from == nil && cameBackOften(d) && (parsed.Write == nil || parsed.Write.Refusal() != nil):
		r.forward(s.o.Partitions, 0) // to the end of the shared queue
	case refusal != nil:
		r.spawn(func() { r.reply(actor.ErrorReply(refusal)) })
	case parsed.Get != nil:
		r.get(parsed.Get)
	case parsed.List != nil:
		r.spawn(func() { r.readPage(listUsers(parsed.List)) })
	case parsed.Changes != nil:
		r.spawn(func() { r.readPage(readChanges(parsed.Changes)) })
	default:
		w := parsed.Write
		if w.RequestID == (actor.RequestID{}) && w.Refusal() == nil {
			// So it is applied once, even if it is carried out or forwarded more than once.
			w.RequestID, r.writeIDMade = actor.NewRequestID(), true
		}
		r.writeID = w.RequestID
		r.firstReceived = firstReceived(d, r.received, r.from != nil)
		w.FirstReceived = r.firstReceived
		w.TraceParent = tracing.Parent(d)
		w.Expires = r.expiration.at
		w.Caller, w.HidesTokens, w.AtOnce = r.caller, hidesTokens(r), s.turns.Precedes(r.sender)
		r.trace.attach(w)
		r.write(w)
	}
}

// requestIDHeader has the request id of a forwarded write, sealed by a [seal.Sealer], if the
// properties of the copy do not lead to it.
const requestIDHeader = "ident-request"

// userIDHeader has the reserved id of the user that a forwarded create request makes,
// sealed by a [seal.Sealer].
const userIDHeader = "ident-user"

// receivedHeader has what firstReceived returned for a forwarded write, in Unix
// milliseconds, unless that was zero.
const receivedHeader = "ident-received"

// requestID returns the id that the request came with, zero if it has none: the one that
// the instance that has forwarded it sends along, or else that of its properties.
func (r *request) requestID() actor.RequestID {
	d := &r.delivery
	if sealed, ok := d.Headers[requestIDHeader].([]byte); ok && r.from != nil {
		if id, ok := seal.Sealer(r.session.o.Secret).OpenRequestID(sealed, d.Body); ok {
			return id
		}
	}
	return actor.RequestIDOf(d.MessageId, d.ReplyTo, d.CorrelationId)
}

// maxReturns is how often a quorum queue may deliver a request of the shared queue again
// until the request is copied. RabbitMQ 4 drops it after 20 times unless the queue or a
// policy has another limit.
const maxReturns = 3

// cameBackOften reports whether a request must be copied, because the broker may drop it
// when it comes back a few times more. Classic queues do not count.
func cameBackOften(d *amqp.Delivery) bool {
	if !d.Redelivered { // a client may have made the header
		return false
	}
	returns, _ := d.Headers["x-delivery-count"].(int64)
	return returns >= maxReturns
}

// firstReceived returns when the first instance received the request, if its request id may
// be one that its caller has used before: a caller with a fixed reply queue may begin to
// count anew. If the request may have been in a queue before, it returns zero, since the
// time is unknown.
func firstReceived(d *amqp.Delivery, received time.Time, byPartition bool) time.Time {
	if byPartition && d.Exchange == "" {
		if ms, ok := d.Headers[receivedHeader].(int64); ok {
			return time.UnixMilli(ms)
		}
		return time.Time{}
	}
	_, died := d.Headers["x-death"]
	if d.MessageId != "" || d.Exchange == "" || d.Redelivered || died {
		return time.Time{}
	}
	return received
}

// checkRouting reports a direct request that the exchange has put into the wrong
// partition's queue, or had no queue for, so that it has come to the shared queue.
func (r *request) checkRouting() {
	s, d := r.session, &r.delivery
	if d.Exchange != topology.DirectExchange || r.from != nil && partition.OfKey(d.RoutingKey, s.o.Partitions) == r.from.lease.Partition {
		return
	}
	s.metrics.Misrouted.Inc()
	s.repairer.ReportMisrouted()
}

// cameFrom reports whether the request came by the queue of this partition.
func (r *request) cameFrom(partition int) bool {
	return r.from != nil && r.from.lease.Partition == partition
}

// forward forwards the request to a partition's queue. It is complete when the broker
// confirms that. newUser is the reserved id of the user that a create request makes, else 0.
func (r *request) forward(partition int, newUser int64) {
	if r.mayForward() {
		r.sendForward(partition, newUser, 0)
	}
}

// mayForward reports whether the request can still be forwarded. If it cannot, it is
// complete.
func (r *request) mayForward() bool {
	switch {
	case r.session.ctx.Err() != nil:
		r.leave()
	case r.expiration.isOver():
		r.drop(metrics.OutcomeExpired)
	default:
		return true
	}
	return false
}

// sendForward forwards the request. mark is that of a spilled write, else 0.
func (r *request) sendForward(partition int, newUser, mark int64) {
	s := r.session
	s.metrics.Forwarded.Inc()
	switch err := s.forwarder.send(r, partition, newUser, mark); {
	case errors.Is(err, errPartitionOverdue):
		r.spawn(func() { r.replyError(err) })
	case err != nil:
		r.leave() // the channel is closed, which ends the session
	}
}

// onFenced handles that a write found its lease lost.
func (s *session) onFenced(lease partition.Lease) {
	logLost(s, lease)
	s.metrics.Fenced.Inc()
	s.reportLost(lease)
}

func logLost(s *session, lease partition.Lease) {
	s.o.Log.Warn("partition lost", zap.Int("partition", lease.Partition), zap.Int64("epoch", lease.Epoch))
}

func isStopped(err error) bool {
	return errors.Is(err, actor.ErrStopped) || errors.Is(err, actor.ErrFenced)
}

// copyRequest returns the copy of a request in a queue of an earlier generation, and the queue of the
// generation to that it goes to: that of its user's partition, or the shared queue if it names no user.
// ok is false if the message is a probe.
func copyRequest(o *Options, d *amqp.Delivery, received time.Time, to partition.Generation) (queue string, copied amqp.Publishing, ok bool) {
	if topology.IsProbe(d) {
		return "", amqp.Publishing{}, false
	}
	replyTo := d.ReplyTo
	if broker.CheckReplyTo(replyTo) != nil {
		replyTo = "" // the broker would close the channel
	}
	headers := copiedHeaders(seal.Sealer(o.Secret), d, replyTo)
	if at := firstReceived(d, received, d.Exchange == ""); !at.IsZero() {
		headers[receivedHeader] = at.UnixMilli()
	}
	operation := operationName(d)
	queue = RequestQueue
	if number, found := partitionOf(o, d, strings.TrimPrefix(operation, topology.RequestPrefix), to.Partitions); found {
		queue = PartitionQueue(to.First + number)
	}
	expiration := expirationOf(d, received)
	return queue, amqp.Publishing{
		Headers: headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: amqp.Persistent, Priority: d.Priority,
		CorrelationId: d.CorrelationId, ReplyTo: replyTo, Expiration: expiration.rest(), MessageId: d.MessageId, Timestamp: d.Timestamp,
		Type: cmp.Or(operation, d.Type), AppId: d.AppId, Body: d.Body,
	}, true
}

// copiedHeaders returns the headers of a copy: those that the service understands, and of a request that
// comes from a caller none that only the service may set. Others may make the broker route the copy
// elsewhere too.
func copiedHeaders(sealer seal.Sealer, d *amqp.Delivery, replyTo string) amqp.Table {
	headers := make(amqp.Table)
	for _, name := range []string{"traceparent", "tracestate"} {
		if text, ok := d.Headers[name].(string); ok {
			headers[name] = text
		}
	}
	if id := actor.RequestIDOf(d.MessageId, d.ReplyTo, d.CorrelationId); id == (actor.RequestID{}) {
		headers[requestIDHeader] = sealer.RequestID(actor.NewRequestID(), d.Body)
	} else if replyTo != d.ReplyTo {
		headers[requestIDHeader] = sealer.RequestID(id, d.Body)
	}
	if d.Exchange == "" { // it was forwarded
		for _, name := range []string{userIDHeader, requestIDHeader, callerHeader} {
			if sealed, ok := d.Headers[name].([]byte); ok {
				headers[name] = sealed
			}
		}
	} else if caller := callerOf(sealer, d); caller != "" {
		headers[callerHeader] = sealer.Caller(caller, sealedRequest(d, replyTo))
	}
	return headers
}

// refusalOf returns the error reply to a request whose copy the broker does not take, and the queue that it
// goes to. ok is false if the request has no reply queue.
func refusalOf(d *amqp.Delivery) (queue string, reply amqp.Publishing, ok bool) {
	reply = amqp.Publishing{
		CorrelationId: d.CorrelationId, ContentType: "application/msgpack",
		Body: actor.ErrorReply(actor.QueueUnavailable),
	}
	return d.ReplyTo, reply, d.ReplyTo != "" && broker.CheckReplyTo(d.ReplyTo) == nil
}

// partitionOf returns the partition of the user of a request, of so many, if it names one.
func partitionOf(o *Options, d *amqp.Delivery, operation string, partitions int) (number int, found bool) {
	sealed, _ := d.Headers[userIDHeader].([]byte)
	if id, ok := seal.Sealer(o.Secret).OpenUserID(sealed, d.Body); ok {
		return partition.Of(id, partitions), true
	}
	parsed, _ := actor.Parse(operation, d.Body, actor.RequestID{}, o.Limits)
	switch {
	case parsed.Write != nil && parsed.Write.UserID != 0:
		return partition.Of(parsed.Write.UserID, partitions), true
	case parsed.Get != nil:
		if id, ok := parsed.Get.ByIDAlone(); ok {
			return partition.Of(id, partitions), true
		}
	}
	return partition.OfKey(d.RoutingKey, partitions), d.Exchange == topology.DirectExchange
}
