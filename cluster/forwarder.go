package cluster

import (
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/internal/tracing"
)

// confirmTimeout is how long the broker may confirm none of the requests that were
// forwarded to a partition. Then these are answered with an error, and further ones are
// refused: otherwise they would use up the limits on requests in flight.
const confirmTimeout = 5 * time.Second

// forwardHeader has the number of a forwarded request, by which it is found when the
// broker returns it.
const forwardHeader = "ident-hop"

// userIDHeader has the reserved id of the user that a forwarded create request makes,
// sealed by a [seal.Sealer].
const userIDHeader = "ident-user"

// requestIDHeader has the request id of a forwarded write, sealed by a [seal.Sealer], if the
// properties of the copy do not lead to it.
const requestIDHeader = "ident-request"

var (
	errPartitionOverdue = errors.New("the broker does not confirm requests that are forwarded to the partition")
	errNotForwarded     = errors.New("the broker did not accept it")
)

// A forwardChannel is what a forwarder uses of an [amqp.Channel].
type forwardChannel interface {
	Confirm(noWait bool) error
	GetNextPublishSeqNo() uint64
	Publish(exchange, key string, mandatory, immediate bool, msg amqp.Publishing) error
	NotifyReturn(chan amqp.Return) chan amqp.Return
	NotifyPublish(chan amqp.Confirmation) chan amqp.Confirmation
}

// A forwarder sends requests on to the queues of their partitions. A forwarded request is
// acknowledged when the broker has confirmed the copy in the partition's queue. So it is
// never lost; if this instance dies in between, it is in two queues, and its request id
// tells that it is the same request.
type forwarder struct {
	channel forwardChannel
	sealer  seal.Sealer

	completed *batchqueue.Queue[*forward] // with the outcome of each forward
	drained   chan struct{}               // closed when nothing is added to completed any more

	// publishing is held while a forward gets its number and is published. If the
	// broker blocks the connection, that takes until it is unblocked or closed.
	publishing sync.Mutex

	mu          sync.Mutex // guards the following fields
	pending     map[uint64]*forward
	byPartition []unconfirmed
}

// unconfirmed is what the broker has not confirmed of one partition.
type unconfirmed struct {
	forwards int

	// since is when the broker last confirmed one; if there were none before, when the
	// oldest was sent.
	since time.Time
}

// A forward is a request that is being forwarded.
type forward struct {
	request   *request
	partition int
	span      *tracing.MessageSpan
	returned  bool // no queue accepted it
	confirmed bool // the partition's queue has it
}

// newForwarder returns a forwarder over a channel, which it puts into confirm mode.
func newForwarder(channel forwardChannel, partitions int, sealer seal.Sealer) (*forwarder, error) {
	if err := channel.Confirm(false); err != nil {
		return nil, fmt.Errorf("asking for confirmations: %w", err)
	}
	f := &forwarder{
		channel:     channel,
		sealer:      sealer,
		completed:   batchqueue.New[*forward](),
		drained:     make(chan struct{}),
		pending:     make(map[uint64]*forward),
		byPartition: make([]unconfirmed, partitions),
	}
	// Both are unbuffered, so that a return is received before the confirmation that
	// follows it. Both are closed with the channel.
	returns := channel.NotifyReturn(make(chan amqp.Return))
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation))
	go f.receive(returns, confirms)
	return f, nil
}

// send publishes a request to the queue of a partition. The outcome is put into
// completed later. newUser is the reserved id of the user that a create request makes,
// else 0; mark is that of a spilled write, else 0. send returns errPartitionOverdue if
// the broker does not confirm forwards to the partition; any other error means that the
// channel is closed.
func (f *forwarder) send(r *request, partition int, newUser, mark int64) error {
	queue := PartitionQueue(partition)
	d := &r.delivery
	span, headers := r.trace.startForward(d, queue)
	if newUser != 0 {
		headers[userIDHeader] = f.sealer.UserID(newUser, d.Body)
	}
	if mark != 0 {
		headers[spillHeader] = mark
	}
	replyTo := d.ReplyTo
	if broker.CheckReplyTo(replyTo) != nil {
		replyTo = "" // the broker would close the channel
	}
	if id := r.writeID; id != (actor.RequestID{}) && id != actor.RequestIDOf(d.MessageId, replyTo, d.CorrelationId) {
		headers[requestIDHeader] = f.sealer.RequestID(id, d.Body)
	}
	f.publishing.Lock()
	defer f.publishing.Unlock()
	number := f.channel.GetNextPublishSeqNo()
	headers[forwardHeader] = int64(number)
	if !f.add(number, &forward{request: r, partition: partition, span: span}) {
		span.End(false)
		return errPartitionOverdue
	}
	err := f.channel.Publish("", queue, true, false, amqp.Publishing{
		Type:          operationName(&r.delivery),
		MessageId:     d.MessageId,
		ReplyTo:       replyTo,
		CorrelationId: d.CorrelationId,
		Expiration:    r.expiration.rest(),
		DeliveryMode:  amqp.Persistent,
		ContentType:   "application/msgpack",
		Headers:       headers,
		Body:          d.Body,
	})
	if err != nil {
		f.remove(number)
		span.End(false)
		return fmt.Errorf("forwarding a request: %w", err)
	}
	return nil
}

// add notes a pending forward. It returns false if the partition is overdue.
func (f *forwarder) add(number uint64, x *forward) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := &f.byPartition[x.partition]
	switch {
	case u.forwards == 0:
		u.since = time.Now()
	case time.Since(u.since) > confirmTimeout:
		return false
	}
	u.forwards++
	f.pending[number] = x
	return true
}

// remove returns the pending forward of this number, nil if there is none. It is pending
// no more.
func (f *forwarder) remove(number uint64) *forward {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.pending[number]
	if x == nil {
		return nil
	}
	delete(f.pending, number)
	u := &f.byPartition[x.partition]
	u.forwards--
	u.since = time.Now()
	return x
}

// overdue returns the requests that are pending in overdue partitions: those of which
// the broker has confirmed nothing for too long. They stay pending, so that the partition
// stays overdue until the broker confirms one of them.
func (f *forwarder) overdue() (requests []*request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.pending {
		if time.Since(f.byPartition[x.partition].since) > confirmTimeout {
			requests = append(requests, x.request)
		}
	}
	return requests
}

// resetDeadlines starts confirmTimeout anew for all partitions, so that none becomes
// overdue before it has passed. It is called while the broker blocks the connection, and so confirms nothing.
func (f *forwarder) resetDeadlines() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.byPartition {
		f.byPartition[i].since = time.Now()
	}
}

// receive handles returns and confirmations until the channel is closed. It never
// blocks, since the connection waits for it.
func (f *forwarder) receive(returns <-chan amqp.Return, confirms <-chan amqp.Confirmation) {
	defer close(f.drained)
	for returns != nil || confirms != nil {
		select {
		case r, ok := <-returns:
			if !ok {
				returns = nil
				continue
			}
			f.setReturned(&r)
		case confirmation, ok := <-confirms:
			if !ok {
				confirms = nil
				continue
			}
			if x := f.remove(confirmation.DeliveryTag); x != nil {
				x.confirmed = confirmation.Ack && !x.returned
				f.completed.Put(x)
			}
		}
	}
	// Requests that were not confirmed were not acknowledged: they are delivered again.
	f.mu.Lock()
	defer f.mu.Unlock()
	for number, x := range f.pending {
		delete(f.pending, number)
		f.completed.Put(x)
	}
}

func (f *forwarder) setReturned(r *amqp.Return) {
	number, _ := r.Headers[forwardHeader].(int64)
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := f.pending[uint64(number)]; x != nil {
		x.returned = true
	}
}

// completeAll completes the requests that were forwarded, until the channel is closed.
func (f *forwarder) completeAll() {
	for {
		for _, x := range f.completed.Take() {
			x.complete()
		}
		select {
		case <-f.completed.Ready():
		case <-f.drained:
			for _, x := range f.completed.Take() {
				x.span.End(x.confirmed)
				x.request.leave()
			}
			return
		}
	}
}

// complete completes the request of a forward, once the outcome is known.
func (x *forward) complete() {
	r := x.request
	s := r.session
	x.span.End(x.confirmed)
	switch {
	case s.ctx.Err() != nil:
		r.leave()
	case x.confirmed:
		r.completed.Do(func() {
			r.acknowledge()
			r.complete(metrics.OutcomeForwarded, 0)
		})
	default:
		if x.returned {
			s.repairer.ReportMissing()
		}
		r.completed.Do(func() { r.requeue("request not forwarded; it is delivered again", errNotForwarded) })
	}
}
