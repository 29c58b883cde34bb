package cluster

import (
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/internal/tracing"
)

// hops passes requests on to the queues of their partitions. A request that was
// passed on is acknowledged when the broker has confirmed that it has it, so one
// is never lost, but may be in two queues if this instance dies in between: its
// identity tells them to be one.
type hops struct {
	channel *amqp.Channel
	closing chan *amqp.Error // the channel's end
	secret  secret

	done    *batchqueue.Queue[*hop]
	drained chan struct{} // closed when no more is done

	// publishing is held while a hop gets its number and is published, which may
	// take as long as the broker likes.
	publishing sync.Mutex

	mu      sync.Mutex // guards the following fields
	pending map[uint64]*hop
	waiting []waiting // by partition
}

// waiting is what the broker has not confirmed of one partition.
type waiting struct {
	hops  int
	since time.Time // when there were none, or the broker confirmed one
}

// stuckAfter is how long the broker may take to confirm any request that is
// passed on to a partition. Then these are given up, and further ones refused,
// lest they take the place of requests that could be carried out.
const stuckAfter = 5 * time.Second

var errStuck = errors.New("the broker does not confirm requests that are passed on to the partition")

// A hop is a request that is being passed on.
type hop struct {
	call      *call
	partition int
	span      *tracing.MessageSpan
	returned  bool // no queue took it
	taken     bool // the broker has it
}

const (
	// hopHeader tells hops apart when the broker returns them.
	hopHeader = "ident-hop"

	// userHeader has the id that was drawn for the user whom a create makes,
	// sealed.
	userHeader = "ident-user"
)

func openHops(conn *amqp.Connection, partitions int, secret secret) (*hops, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("opening a channel: %w", err)
	}
	if err := channel.Confirm(false); err != nil {
		return nil, fmt.Errorf("asking for confirmations: %w", err)
	}
	h := &hops{
		channel: channel,
		closing: channel.NotifyClose(make(chan *amqp.Error, 1)),
		secret:  secret,
		pending: make(map[uint64]*hop),
		waiting: make([]waiting, partitions),
		done:    batchqueue.New[*hop](),
		drained: make(chan struct{}),
	}
	// Without room in these, what the broker says of one request is taken in the
	// order in which it says it. Both end with the channel.
	returns := channel.NotifyReturn(make(chan amqp.Return))
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation))
	go h.listen(returns, confirms)
	return h, nil
}

// pass publishes a request to the queue of a partition, for good. For a create,
// user is the id that was drawn, else 0; mark is 0 or that of a write which the
// partition's owner puts into its queue. What became of it is put into done. Where
// the partition is stuck, it returns errStuck.
func (h *hops) pass(c *call, partition int, user, mark int64) error {
	queue := PartitionQueue(partition)
	span, headers := c.trace.startForward(&c.Delivery, queue)
	if user != 0 {
		headers[userHeader] = h.secret.sealUser(user, c.Body)
	}
	if mark != 0 {
		headers[turnHeader] = mark
	}
	h.publishing.Lock()
	defer h.publishing.Unlock()
	number := h.channel.GetNextPublishSeqNo()
	headers[hopHeader] = int64(number)
	if !h.begin(number, &hop{call: c, partition: partition, span: span}) {
		span.End(false)
		return errStuck
	}
	replyTo := c.ReplyTo
	if broker.CheckReplyTo(replyTo) != nil {
		replyTo = "" // it would cost the channel
	}
	err := h.channel.Publish("", queue, true, false, amqp.Publishing{
		Type:          c.operationName(),
		MessageId:     c.MessageId,
		ReplyTo:       replyTo,
		CorrelationId: c.CorrelationId,
		Expiration:    c.Expiration,
		DeliveryMode:  amqp.Persistent,
		ContentType:   "application/msgpack",
		Headers:       headers,
		Body:          c.Body,
	})
	if err != nil {
		h.end(number)
		span.End(false)
		return fmt.Errorf("passing a request on: %w", err)
	}
	return nil
}

// begin notes that a hop is pending, unless its partition is stuck.
func (h *hops) begin(number uint64, x *hop) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &h.waiting[x.partition]
	switch {
	case w.hops == 0:
		w.since = time.Now()
	case time.Since(w.since) > stuckAfter:
		return false
	}
	w.hops++
	h.pending[number] = x
	return true
}

// end returns the hop of this number, which is pending no more; nil if it was not.
func (h *hops) end(number uint64) *hop {
	h.mu.Lock()
	defer h.mu.Unlock()
	x := h.pending[number]
	if x == nil {
		return nil
	}
	delete(h.pending, number)
	w := &h.waiting[x.partition]
	w.hops--
	w.since = time.Now()
	return x
}

// stuck returns the calls of the hops that are pending in partitions that are
// stuck. They stay pending, so that such a partition stays stuck until the
// broker confirms one.
func (h *hops) stuck() (calls []*call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range h.pending {
		if time.Since(h.waiting[x.partition].since) > stuckAfter {
			calls = append(calls, x.call)
		}
	}
	return calls
}

// excuse begins anew for all partitions: the broker takes nothing in from anybody,
// and has said so.
func (h *hops) excuse() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.waiting {
		h.waiting[i].since = time.Now()
	}
}

// listen notes what the broker says of hops until the channel ends. It waits
// for nobody, since the connection waits for it.
func (h *hops) listen(returns <-chan amqp.Return, confirms <-chan amqp.Confirmation) {
	defer close(h.drained)
	for returns != nil || confirms != nil {
		select {
		case r, ok := <-returns:
			if !ok {
				returns = nil
				continue
			}
			number, _ := r.Headers[hopHeader].(int64)
			h.mu.Lock()
			if x := h.pending[uint64(number)]; x != nil {
				x.returned = true
			}
			h.mu.Unlock()
		case confirmation, ok := <-confirms:
			if !ok {
				confirms = nil
				continue
			}
			if x := h.end(confirmation.DeliveryTag); x != nil {
				x.taken = confirmation.Ack && !x.returned
				h.done.Put(x)
			}
		}
	}
	// What was not confirmed was not acknowledged either, and comes again.
	h.mu.Lock()
	defer h.mu.Unlock()
	for number, x := range h.pending {
		delete(h.pending, number)
		h.done.Put(x)
	}
}

// finishHops ends the calls that were passed on.
func (s *session) finishHops() {
	for {
		for _, x := range s.hops.done.Take() {
			s.passed(x)
		}
		select {
		case <-s.hops.done.Ready():
		case <-s.hops.drained:
			for _, x := range s.hops.done.Take() {
				x.span.End(x.taken)
				x.call.leave()
			}
			return
		}
	}
}

func (s *session) passed(x *hop) {
	c := x.call
	x.span.End(x.taken)
	switch {
	case s.ctx.Err() != nil:
		c.leave()
	case x.taken:
		c.ended.Do(func() {
			c.acknowledge()
			c.end(outcomePassedOn, 0)
		})
	default:
		if x.returned {
			s.repairer.ReportMissing()
		}
		c.ended.Do(func() { c.putBack("request not passed on; it comes again", errNotTaken) })
	}
}

var errNotTaken = errors.New("the broker did not take it")
