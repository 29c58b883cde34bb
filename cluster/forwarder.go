package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/internal/tracing"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// confirmTimeout is how long the broker may confirm none of the requests that were
	// forwarded to a partition. Then these get an error reply, and further ones are refused
	// until it confirms one.
	confirmTimeout = 5 * time.Second

	// silentAfter is how long the broker may confirm none of the requests that were
	// forwarded to a partition until no others wait for that.
	silentAfter = time.Second

	// laneReopenAfter is how long the broker may confirm nothing until the requests that
	// were forwarded to the partition are given up, and others are forwarded over another
	// channel.
	laneReopenAfter = 2 * time.Minute

	// laneIdleFor is how long a channel is kept on which nothing is forwarded.
	laneIdleFor = time.Minute

	// stuckAfter is how long sending one request may take until another session begins: the
	// broker reads nothing from the connection.
	stuckAfter = 10 * time.Second

	// maxUnconfirmed is how many requests may be forwarded to one partition and not
	// confirmed. With one more on a channel that a quorum queue has not confirmed, RabbitMQ
	// stops reading from the connection.
	maxUnconfirmed = 31
)

var (
	errPartitionOverdue = errors.New("the broker does not take in requests that are forwarded to the partition")
	errForwardingStuck  = errors.New("the broker reads nothing from the connection for forwarded requests")
)

// A forwarder sends requests on to the queues of their partitions. A forwarded request is
// acknowledged when the broker has confirmed the copy in the partition's queue. So it is
// never lost; if this instance dies in between, it is in two queues, and its request id
// tells that it is the same request. If the broker does not accept the copy, the request
// gets an error reply.
//
// Each partition to which requests are forwarded has a lane with a channel of its own: if
// the partition's queue is a quorum queue whose leader does not reply, RabbitMQ handles
// nothing on that channel. So such a queue costs only requests to its partition.
type forwarder struct {
	sealer seal.Sealer
	names  func(partition int) string // of the partitions' queues
	open   func() (publish.Channel, error)
	run    func(*publish.Publisher) (stop context.CancelFunc) // runs a publisher until it is stopped or the session ends

	mu    sync.Mutex // guards the following field
	lanes []*lane    // by partition, the last one of the shared queue; nil: none is needed
}

// A lane has the forwards to one partition.
type lane struct {
	publisher *publish.Publisher
	stop      context.CancelFunc // ends the publisher

	// publishing is held while a forward is put into the lane, or taken out of waiting,
	// and published. If the broker blocks the connection, that takes until it is unblocked
	// or closed.
	publishing sync.Mutex

	sending wait.Moment // since when a forward is being sent

	mu          sync.Mutex // guards the following fields
	unconfirmed map[*forward]struct{}
	waiting     []*forward // to be published when fewer are unconfirmed, in order

	// since is when the broker last decided on a forward; if none was unconfirmed then,
	// when the next one was published.
	since time.Time
}

// A forward is a request that is being forwarded.
type forward struct {
	request *request // nil: an ask
	lane    *lane
	span    *tracing.MessageSpan
	message *publish.Message
	overdue bool // it was found to be overdue; guarded by lane.mu
}

func newForwarder(open func() (publish.Channel, error), run func(*publish.Publisher) context.CancelFunc, names func(partition int) string, partitions int, sealer seal.Sealer) *forwarder {
	return &forwarder{sealer: sealer, names: names, open: open, run: run, lanes: make([]*lane, partitions+1)}
}

// queueOf returns the name of a partition's queue. The number after the last partition
// stands for the shared queue.
func (f *forwarder) queueOf(partition int) string {
	if partition == len(f.lanes)-1 {
		return RequestQueue
	}
	return f.names(partition)
}

// send publishes a request to the queue of a partition, after all earlier ones to it. When
// the outcome is known, the request is completed. newUser is the reserved id of the user
// that a create request makes, else 0; mark is that of a spilled write, else 0. send
// returns errPartitionOverdue if the request was not forwarded because the broker does not
// confirm forwards to the partition.
func (f *forwarder) send(r *request, partition int, newUser, mark int64) error {
	return f.put(f.newForward(r, partition, newUser, mark), partition)
}

// put publishes a forward, or has it wait.
func (f *forwarder) put(x *forward, partition int) error {
	x.message.Settled = func(err error) { x.lane.settled(x, err) }
	l := f.lockLane(partition)
	defer l.publishing.Unlock()
	x.lane = l
	now, err := l.add(x)
	if err != nil {
		x.span.End(false)
		return err
	}
	if now {
		l.publish(x)
	}
	return nil
}

// publish publishes a forward. publishing is held.
func (l *lane) publish(x *forward) {
	l.sending.Set(time.Now())
	defer l.sending.Clear()
	l.publisher.Publish(x.message)
}

// isStuck reports whether sending one forward takes too long: the broker reads nothing from
// the connection.
func (l *lane) isStuck() bool {
	age, sending := l.sending.Age()
	return sending && age > stuckAfter
}

// lockLane returns the lane of a partition, with publishing held.
func (f *forwarder) lockLane(partition int) *lane {
	for {
		l := f.lane(partition)
		l.publishing.Lock()
		if f.isLane(partition, l) {
			return l
		}
		l.publishing.Unlock() // it was closed in the meantime
	}
}

func (f *forwarder) isLane(partition int, l *lane) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lanes[partition] == l
}

// lane returns the lane of a partition. It makes one if there is none.
func (f *forwarder) lane(partition int) *lane {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lanes[partition]
	if l == nil {
		l = &lane{publisher: publish.New(publish.Options{Open: f.open}), unconfirmed: make(map[*forward]struct{}), since: time.Now()}
		l.stop = f.run(l.publisher)
		f.lanes[partition] = l
	}
	return l
}

func (f *forwarder) newForward(r *request, partition int, newUser, mark int64) *forward {
	queue := f.queueOf(partition)
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
	if r.caller != "" {
		headers[callerHeader] = f.sealer.Caller(r.caller, sealedRequest(d, replyTo))
	}
	if !r.firstReceived.IsZero() {
		headers[receivedHeader] = r.firstReceived.UnixMilli()
	}
	x := &forward{request: r, span: span}
	x.message = &publish.Message{
		Key:       queue,
		Mandatory: true,
		Publishing: amqp.Publishing{
			Type:          operationName(d),
			MessageId:     d.MessageId,
			AppId:         d.AppId,
			ReplyTo:       replyTo,
			CorrelationId: d.CorrelationId,
			Expiration:    r.expiration.rest(),
			DeliveryMode:  amqp.Persistent,
			ContentType:   "application/msgpack",
			Headers:       headers,
			Body:          d.Body,
		},
	}
	return x
}

// add puts a forward into the lane. It returns true if the forward is to be published now,
// false if it waits.
func (l *lane) add(x *forward) (now bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	silent := time.Since(l.since)
	mustWait := len(l.waiting) > 0 || len(l.unconfirmed) >= maxUnconfirmed
	switch {
	case len(l.unconfirmed) == 0:
		l.since = time.Now()
	case silent > confirmTimeout, mustWait && silent > silentAfter:
		return false, errPartitionOverdue
	}
	if mustWait {
		l.waiting = append(l.waiting, x)
		return false, nil
	}
	l.unconfirmed[x] = struct{}{}
	return true, nil
}

// settled completes a request that was forwarded, once the outcome is known, and
// publishes the next one that waits.
func (l *lane) settled(x *forward, err error) {
	if l.remove(x) {
		l.publishWaiting()
	}
	x.complete(err)
}

// remove notes that the outcome of a forward is known. It returns whether others wait.
func (l *lane) remove(x *forward) (othersWait bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.unconfirmed, x)
	l.since = time.Now()
	return len(l.waiting) > 0
}

// publishWaiting publishes the forwards that wait, as far as they may be.
func (l *lane) publishWaiting() {
	l.publishing.Lock()
	defer l.publishing.Unlock()
	for x := l.take(); x != nil; x = l.take() {
		l.publish(x)
	}
}

// take returns the first forward that waits, nil if none may be published.
func (l *lane) take() *forward {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 || len(l.unconfirmed) >= maxUnconfirmed {
		return nil
	}
	x := l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1)
	l.unconfirmed[x] = struct{}{}
	return x
}

// overdue returns the forwards of a lane that have waited for the broker for too long, each
// once. Those that are unconfirmed stay in the lane, so that it stays overdue until the
// broker confirms one.
func (l *lane) overdue() (all []*forward) {
	l.mu.Lock()
	defer l.mu.Unlock()
	silent := time.Since(l.since)
	if silent > silentAfter {
		all, l.waiting = l.waiting, nil
	}
	if silent <= confirmTimeout {
		return all
	}
	for x := range l.unconfirmed {
		if !x.overdue {
			x.overdue = true
			all = append(all, x)
		}
	}
	return all
}

// isFinished reports whether a lane is not needed, or of no use.
func (l *lane) isFinished() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	silent := time.Since(l.since)
	return len(l.unconfirmed) == 0 && silent > laneIdleFor || silent > laneReopenAfter
}

// openLanes returns the lanes by partition.
func (f *forwarder) openLanes() map[int]*lane {
	f.mu.Lock()
	defer f.mu.Unlock()
	open := make(map[int]*lane)
	for partition, l := range f.lanes {
		if l != nil {
			open[partition] = l
		}
	}
	return open
}

// check sends error replies to the requests of overdue partitions, and closes lanes that
// are not needed. It reports whether the connection is stuck, and does not wait for the
// broker.
func (f *forwarder) check() (stuck bool) {
	for partition, l := range f.openLanes() {
		stuck = stuck || l.isStuck()
		for _, x := range l.overdue() {
			if x.request == nil {
				continue
			}
			x.request.spawn(func() { x.request.replyError(errPartitionOverdue) }) // the consuming connection may be stuck too
		}
		if !l.isFinished() || !l.publishing.TryLock() {
			continue
		}
		if l.isFinished() {
			f.mu.Lock()
			f.lanes[partition] = nil
			f.mu.Unlock()
			l.stop()
		}
		l.publishing.Unlock()
	}
	return stuck
}

// complete completes the request of a forward, once the outcome is known.
func (x *forward) complete(err error) {
	r := x.request
	if r == nil {
		return
	}
	s := r.session
	x.span.End(err == nil)
	var rejected *publish.RejectedError
	switch {
	case s.ctx.Err() != nil, errors.Is(err, publish.ErrLost):
		r.leave()
	case err == nil:
		completeForwarded(r)
	case errors.As(err, &rejected):
		s.sizes.NoteRejected(len(r.delivery.Body), err, traceFields(r)...)
		r.replyError(err)
	default:
		// If it were delivered again, later requests of the user would overtake it.
		if errors.Is(err, publish.ErrReturned) {
			s.repairer.ReportMissing(x.message.Key)
		}
		r.replyError(errPartitionOverdue)
	}
}
