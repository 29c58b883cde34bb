package cluster

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/relay"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/internal/tracing"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/throttle"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// relayPrefetch is how many messages of other instances the broker sends before they are
	// acknowledged.
	relayPrefetch = 16

	// relayReopenAfter is how long an instance waits until it consumes its queue for other instances
	// again.
	relayReopenAfter = time.Second

	// notRelayedEvery is how often it is logged at most that this queue is not consumed.
	notRelayedEvery = 30 * time.Second
)

// A forwardedWrite is a write that came by the shared queue and that another instance may serve.
// It implements [relay.Forward].
type forwardedWrite struct {
	request   *request
	write     *actor.Write
	partition int
	newUser   int64 // the reserved id of the user that a create request makes, else 0
	span      *tracing.MessageSpan
}

// Request returns what the other instance needs.
func (x *forwardedWrite) Request() *relay.Request {
	r, d := x.request, &x.request.delivery
	var headers amqp.Table
	x.span, headers = r.trace.startForward(d, relayQueueName)
	parent, state := tracing.Of(headers)
	q := &relay.Request{
		Operation: operationName(d), MessageID: d.MessageId, ReplyTo: d.ReplyTo, CorrelationID: d.CorrelationId,
		Expiration: r.expiration.rest(), RequestID: r.writeID, NewUser: x.newUser, Redelivered: d.Redelivered, Urgent: r.writeIDMade, AtOnce: x.write.AtOnce,
		Caller: r.caller, TraceParent: parent, TraceState: state, Body: d.Body,
	}
	if !r.firstReceived.IsZero() {
		q.FirstReceived = r.firstReceived.UnixMilli()
	}
	if broker.CheckReplyTo(d.ReplyTo) != nil {
		q.ReplyTo = ""
	}
	return q
}

// Complete acknowledges the request.
func (x *forwardedWrite) Complete() {
	x.span.End(true)
	completeForwarded(x.request)
}

// SendToQueue forwards the request to the partition's queue.
func (x *forwardedWrite) SendToQueue() {
	x.span.End(false)
	x.span = nil
	x.request.forward(x.partition, x.newUser)
}

// Serve passes the request to the actors of this instance. It is spilled if earlier writes of the
// user were spilled and are still in the queue.
func (x *forwardedWrite) Serve() bool {
	r := x.request
	p := r.session.slots.accepting(x.partition)
	switch {
	case p == nil:
		return false
	case p.spilled.has(x.write.UserID):
		r.spill(p, x.write.UserID, x.newUser)
	default:
		r.writeIn(p, x, func() { r.forward(x.partition, x.newUser) })
	}
	return true
}

// A relayedFrom identifies a request that another instance has relayed.
type relayedFrom struct {
	member ownership.Member
	number int64
	urgent bool
}

// relayQueueName stands for the queues of the relay in traces, which need few names.
const relayQueueName = "glotpod.ident.relay"

// report tells the other instance what became of the request.
func (x *relayedFrom) report(s *session, o relay.Outcome) {
	if o == relay.Done && x.urgent {
		o = relay.DoneUrgent
	}
	s.relay.Report(x.member, x.number, o)
}

// newRelay returns the session's relay. open opens channels for what is sent to other instances.
func newRelay(s *session, open func() (publish.Channel, error)) *relay.Relay {
	return relay.New(relay.Options{
		Self:       s.self,
		Partitions: s.o.Partitions,
		Sealer:     seal.Sealer(s.o.Secret),
		Log:        s.o.Log,
		Open:       open,
		Run:        func(p *publish.Publisher) context.CancelFunc { return runLane(s, p) },
		Ask:        func(partition int, ask []byte) { s.forwarder.ask(s.ctx, partition, ask) },
		Accept:     func(from ownership.Member, q *relay.Request) { s.relayed.Load().accept(from, q) },
		Batch:      func(requests int) { s.metrics.Batches.Observe(float64(requests)) },
	})
}

// runLane runs a publisher of what is sent to another instance. If it fails, the relay closes the lane.
func runLane(s *session, p *publish.Publisher) context.CancelFunc {
	ctx, stop := context.WithCancel(s.ctx)
	s.running.Go(func() { p.Run(ctx) }) // what it has not sent gets an error
	return stop
}

// A relayConsumer consumes an instance's queue for what other instances send, and carries out what they relay.
type relayConsumer struct {
	session  *session
	consumer *consume.Consumer
}

// consumeRelayed consumes this instance's queue for what other instances send, until the session ends. While
// that fails, the requests go through the queues of the partitions.
func consumeRelayed(s *session) {
	failed := throttle.New(s.o.Log, zap.WarnLevel, "requests are not relayed to this instance", notRelayedEvery)
	for s.ctx.Err() == nil {
		c := &relayConsumer{session: s}
		err := c.open()
		if err == nil {
			s.relayed.Store(c)
			c.receive()
			s.relayed.Store(nil)
			err = c.consumer.EndCause()
			c.consumer.Close()
		}
		if s.ctx.Err() == nil {
			s.sizes.NoteLost(err)
			failed.Log(1, zap.Error(err))
		}
		wait.For(s.ctx, relayReopenAfter)
	}
}

func (c *relayConsumer) open() (err error) {
	s := c.session
	channel, err := s.conn.Channel()
	if err != nil {
		return err
	}
	defer channel.Close() // an error means that it is closed already
	if err := relay.Declare(channel, s.self); err != nil {
		return err
	}
	if c.consumer, err = consume.Open(consume.Over(s.conn), relay.QueueOf(s.self), relayPrefetch); err != nil {
		return err
	}
	return c.consumer.Start(true)
}

// receive handles what other instances send, until the consumer ends.
func (c *relayConsumer) receive() {
	s := c.session
	for d := range c.consumer.Deliveries {
		c.consumer.Track(&d)
		if err := s.relay.Receive(d.Body); err != nil {
			s.malformed.Log(1, zap.Error(err))
		}
		if needsFlush, err := c.consumer.Ack(&d, false); err == nil && needsFlush {
			s.acks.Add(c.consumer)
		}
	}
}

// accept carries out a write that another instance has relayed, or refuses it.
func (c *relayConsumer) accept(from ownership.Member, q *relay.Request) {
	s := c.session
	p, refused := c.accepting(from, q)
	if p == nil {
		s.relay.Report(from, q.Number, refused)
		return
	}
	r := &request{
		session: s, consumer: c.consumer, received: time.Now(), relayed: &relayedFrom{from, q.Number, q.Urgent},
		delivery: amqp.Delivery{
			Type: q.Operation, MessageId: q.MessageID, ReplyTo: q.ReplyTo, CorrelationId: q.CorrelationID,
			Expiration: q.Expiration, Redelivered: q.Redelivered, Headers: tracing.Headers(q.TraceParent, q.TraceState), Body: q.Body,
		},
		size:    len(q.Body),
		caller:  q.Caller,
		writeID: q.RequestID,
	}
	r.expiration = expirationOf(&r.delivery, r.received)
	if q.FirstReceived != 0 {
		r.firstReceived = time.UnixMilli(q.FirstReceived)
	}
	r.start()
	defer r.recoverPanic()
	p.requests.Count()
	parsed, refusal := actor.Parse(r.operation(), q.Body, q.RequestID, s.o.Limits)
	r.trace.routed(r.received)
	w := parsed.Write
	if refusal != nil || w == nil || w.Refusal() != nil {
		r.leave() // no instance relays such a request
		return
	}
	w.FirstReceived, w.Expires, w.TraceParent = r.firstReceived, r.expiration.at, tracing.Parent(&r.delivery)
	w.Caller, w.HidesTokens, w.AtOnce = r.caller, hidesTokens(r), q.AtOnce
	r.trace.attach(w)
	if w.IsCreate() {
		w.UserID = q.NewUser
	}
	if partition.Of(w.UserID, s.o.Partitions) != q.Partition {
		r.leave()
		return
	}
	r.writeIn(p, &forwardedWrite{request: r, write: w, partition: q.Partition, newUser: q.NewUser}, func() {
		p.senders.Refuse(from, q)
		r.leave()
	})
}

// accepting returns the partition of a request that another instance has relayed. It returns nil, and why,
// if this instance does not serve the partition, has refused an earlier request, or has no room for the body.
func (c *relayConsumer) accepting(from ownership.Member, q *relay.Request) (p *servedPartition, refused relay.Outcome) {
	s := c.session
	if q.Partition < 0 || q.Partition >= len(s.slots) {
		return nil, relay.Refused
	}
	p = s.slots.accepting(q.Partition)
	if p == nil || !p.senders.Accept(from, q) {
		return nil, relay.Refused
	}
	if !s.bodies.TryAcquire(len(q.Body)) {
		p.senders.Refuse(from, q)
		return nil, relay.Busy
	}
	return p, 0
}

// askHeader has an ask of the relay.
const askHeader = "ident-ask"

// ask puts an ask into the queue of a partition, behind all requests that were forwarded there.
func (f *forwarder) ask(session context.Context, number int, ask []byte) {
	if session.Err() != nil {
		return
	}
	m := topology.NewProbe()
	m.Headers[askHeader] = ask
	f.put(&forward{message: &publish.Message{Key: f.queueOf(number), Mandatory: true, Publishing: m}}, number)
}

// answerAsk answers an ask, if a probe that came by a partition's queue is one.
func answerAsk(r *request) {
	sealed, _ := r.delivery.Headers[askHeader].([]byte)
	s, p := r.session, r.from
	if sealed == nil || p == nil {
		return
	}
	from, ask, ok := s.relay.ReadAsk(sealed)
	if canBeRelayed := from == s.self || s.relayed.Load() != nil; ok && canBeRelayed && s.slots.accepting(p.lease.Partition) == p {
		p.senders.Answer(from, ask)
		s.relay.Answer(from, p.lease.Partition, ask)
	}
}

// completeForwarded completes a request that another instance serves.
func completeForwarded(r *request) {
	r.completed.Do(func() {
		r.acknowledge()
		r.complete(metrics.OutcomeForwarded, 0)
	})
}
