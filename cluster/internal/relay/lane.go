package relay

import (
	"context"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/partition"
)

const (
	// maxBatch and maxBatchBytes bound the requests of one message. A larger request has a
	// message of its own.
	maxBatch      = 64
	maxBatchBytes = 128 << 10

	// gatherAtMost bounds how long a lane waits for as many requests as its last message had. It
	// waits as long as that message was on the way: long if the broker is loaded, so that messages
	// become large and cost it less. A lane with one request at a time never waits.
	gatherAtMost = 5 * time.Millisecond

	// laneIdleFor is how long a lane is kept over which nothing is sent.
	laneIdleFor = time.Minute
)

// A lane has what is sent to one instance. The Relay's mu guards it.
type lane struct {
	to        partition.Member
	publisher *publish.Publisher
	stop      context.CancelFunc // ends the publisher

	waiting message   // is sent when the lane is idle
	sending bool      // a message is being sent, and is not confirmed; or requests are gathered for it
	used    time.Time // when sending was set, or the message was sent

	gathering *time.Timer   // sends the message when it fires; nil: no requests are gathered
	last      int           // how many requests the last message with requests had
	atOnce    bool          // a request that waits is sent at once
	took      time.Duration // how long that message was on the way

	relayed int // requests that are not complete
}

// laneLocked returns the lane to an instance. It makes one if there is none.
func (r *Relay) laneLocked(to partition.Member) *lane {
	l := r.lanes[to]
	if l == nil {
		l = &lane{to: to, publisher: publish.New(publish.Options{Open: r.o.Open}), used: time.Now()}
		l.stop = r.o.Run(l.publisher)
		r.lanes[to] = l
	}
	return l
}

// kickLocked has what waits sent, unless the lane is busy.
func (l *lane) kickLocked(r *Relay) {
	requests := len(l.waiting.requests)
	switch {
	case r.closed:
	case l.gathering != nil:
		if (requests >= l.last || l.atOnce) && l.gathering.Stop() {
			l.gathering = nil
			go l.send(r)
		}
	case l.sending:
	default:
		l.sending, l.used = true, time.Now()
		if 0 < requests && requests < l.last && !l.atOnce {
			l.gathering = time.AfterFunc(min(l.took, gatherAtMost), func() { l.send(r) })
		} else {
			go l.send(r)
		}
	}
}

// send sends the next message.
func (l *lane) send(r *Relay) {
	r.mu.Lock()
	m := l.takeLocked(r.o.Self)
	l.gathering, l.sending, l.used = nil, !m.isEmpty(), time.Now()
	if len(m.requests) > 0 {
		l.last = len(m.requests)
	}
	r.mu.Unlock()
	if m.isEmpty() {
		return
	}
	if len(m.requests) > 0 {
		r.o.Batch(len(m.requests))
	}
	l.publisher.Publish(&publish.Message{
		Key:       QueueOf(l.to),
		Mandatory: true,
		Publishing: amqp.Publishing{
			DeliveryMode: amqp.Transient,
			ContentType:  "application/octet-stream",
			Headers:      amqp.Table{},
			Body:         r.o.Sealer.Message(m.encode()),
		},
		Settled: func(err error) { l.settled(r, len(m.requests) > 0, err) },
	})
}

// takeLocked takes what the next message has.
func (l *lane) takeLocked(self partition.Member) message {
	m := l.waiting
	m.from = self
	l.waiting = message{}
	size := 0
	for i, q := range m.requests {
		if size += q.size(); i == maxBatch || i > 0 && size > maxBatchBytes {
			m.requests, l.waiting.requests = m.requests[:i], m.requests[i:]
			break
		}
	}
	l.atOnce = slices.ContainsFunc(l.waiting.requests, func(q *Request) bool { return q.AtOnce })
	return m
}

// settled sends the next message. If the last one did not arrive, the instance is gone.
func (l *lane) settled(r *Relay, hadRequests bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		l.sending = false
		if hadRequests {
			l.took = time.Since(l.used)
		}
		if !l.waiting.isEmpty() {
			l.kickLocked(r)
		}
		return
	}
	if r.lanes[l.to] != l {
		return
	}
	r.o.Log.Debug("other instance not reached", zap.Stringer("member", l.to), zap.Error(err))
	r.closeLaneLocked(l.to)
}

// closeLaneLocked closes a lane. The requests that were relayed over it and are not complete go to the
// queues.
func (r *Relay) closeLaneLocked(to partition.Member) {
	l := r.lanes[to]
	for p := range r.routes {
		if t := &r.routes[p]; t.state == direct && t.owner == to {
			r.setQueuedLocked(t, true)
		}
	}
	r.removeLaneLocked(l)
}

func (r *Relay) removeLaneLocked(l *lane) {
	delete(r.lanes, l.to)
	go l.stop()
}

// Sweep closes lanes that are not needed. The next request opens another one.
func (r *Relay) Sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lanes {
		if !l.sending && l.waiting.isEmpty() && l.relayed == 0 && time.Since(l.used) > laneIdleFor {
			r.removeLaneLocked(l)
		}
	}
}

// Flush waits until the requests of other instances are complete and they know it, or ctx is done.
func (r *Relay) Flush(ctx context.Context) {
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	for r.flush() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// flushEvery is how often Flush looks.
const flushEvery = 5 * time.Millisecond

// flush has all that waits sent. It reports whether something is not sent or not complete.
func (r *Relay) flush() (busy bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lanes {
		if !l.waiting.isEmpty() {
			l.kickLocked(r)
		}
		busy = busy || l.sending
	}
	return busy || len(r.accepted) > 0
}
