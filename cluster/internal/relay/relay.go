package relay

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/partition"
)

const (
	// reportFor is how long nothing may be heard of a relayed request until it goes to its
	// partition's queue. The instance that serves the partition may have stopped.
	reportFor = 200 * time.Millisecond

	// workingEvery is how often an instance says that it is still working on a request.
	workingEvery = reportFor / 4

	// workFor is how long an instance may work on a request until it goes to its partition's queue,
	// where it occupies nobody.
	workFor = time.Second

	// reportDelay is how long it may take until an instance reports that a request is complete: the
	// caller has its reply already. Other messages take such reports along.
	reportDelay = 20 * time.Millisecond

	// checkEvery is how often it is checked what is overdue, while requests are relayed.
	checkEvery = reportFor / 4

	// flushFor is how long requests may wait for the answer to the second ask. The
	// first one was answered a moment before, so the queue is being consumed.
	flushFor = 200 * time.Millisecond

	// askFor is how long the first ask may be unanswered until another one follows.
	askFor = time.Second

	// sendFor is how long the broker may take to confirm a message to another instance.
	sendFor = time.Second
)

// A Forward is a request that this instance has received and another one may serve. The
// methods do not call the Relay.
type Forward interface {
	// Request returns what the other instance needs, except for what the Relay sets.
	Request() *Request

	// Complete says that the request was carried out and the caller has the reply.
	Complete()

	// SendToQueue sends the request to its partition's queue. It may wait for the broker.
	SendToQueue()

	// Serve gives the request to the actors of this instance. It returns false, and does
	// nothing, if this instance does not serve the partition.
	Serve() bool
}

// Options are what a Relay needs. Except Accept, the functions do not call the Relay.
type Options struct {
	Self       partition.Member
	Partitions int
	Sealer     seal.Sealer
	Log        *zap.Logger

	Open func() (publish.Channel, error)                    // opens a channel for what is sent
	Run  func(*publish.Publisher) (stop context.CancelFunc) // runs a publisher until it is stopped

	// Ask puts an ask into the queue of a partition, behind all requests that Forward.SendToQueue
	// has sent there. It may wait for the broker.
	Ask func(partition int, ask []byte)

	// Accept begins to carry out a request of another instance. It does not wait. Report has to
	// be called once, perhaps before Accept returns.
	Accept func(from partition.Member, r *Request)

	// Batch is called with the number of requests of each message that is sent.
	Batch func(requests int)
}

// A Relay sends requests to other instances, and receives theirs. It is safe for concurrent
// use.
type Relay struct {
	o      Options
	routes []route

	mu       sync.Mutex // guards the following fields, and those of routes and lanes
	lanes    map[partition.Member]*lane
	sent     map[int64]*relayed // the requests that were relayed and are not complete
	accepted map[acceptedKey]time.Time
	flushing int // how many routes are
	number   int64
	checking bool
	checked  time.Time // when check was called last
	closed   bool
}

// An acceptedKey identifies a request of another instance that this one works on. Its value
// is when the other one was last told so.
type acceptedKey struct {
	from   partition.Member
	number int64
}

// New returns a Relay that has sent nothing.
func New(o Options) *Relay {
	r := &Relay{
		o:        o,
		routes:   make([]route, o.Partitions),
		lanes:    make(map[partition.Member]*lane),
		sent:     make(map[int64]*relayed),
		accepted: make(map[acceptedKey]time.Time),
		number:   rand.Int64N(1 << 62),
	}
	for p := range r.routes {
		r.routes[p].partition = p
		r.routes[p].isLocal.Store(true)
	}
	return r
}

// nextNumberLocked returns a number for a request or an ask.
func (r *Relay) nextNumberLocked() int64 {
	r.number++
	return r.number
}

// Forward has a request served by the instance that serves its partition. Requests of one
// partition that are passed one after another are served in this order for each user. queue says that
// the request must go to the partition's queue.
func (r *Relay) Forward(p int, f Forward, queue bool) {
	t := &r.routes[p]
	if !queue && t.isLocal.Load() && f.Serve() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forwardLocked(t, f, queue)
}

func (r *Relay) forwardLocked(t *route, f Forward, queue bool) {
	switch {
	case r.closed:
		r.queueLocked(t, f)
	case t.state == flushing && !queue:
		t.held = append(t.held, f)
	case t.state == direct && !queue:
		r.relayLocked(t, f)
	default:
		r.setQueuedLocked(t, false)
		r.queueLocked(t, f)
		r.askLocked(t)
	}
}

// queueLocked has a request sent to its partition's queue.
func (r *Relay) queueLocked(t *route, f Forward) { t.enqueueLocked(r, f.SendToQueue) }

// relayLocked puts a request into the lane to the instance that serves its partition.
func (r *Relay) relayLocked(t *route, f Forward) {
	l := r.laneLocked(t.owner)
	data := f.Request()
	data.Number, data.Partition, data.Ask, data.Place = r.nextNumberLocked(), t.partition, t.ask, t.count
	t.count++
	now := time.Now()
	x := &relayed{forward: f, route: t, lane: l, number: data.Number, since: now, heard: now}
	r.sent[x.number] = x
	t.relayed = append(t.relayed, x)
	l.relayed++
	l.waiting.requests, l.atOnce = append(l.waiting.requests, data), l.atOnce || data.AtOnce
	l.kickLocked(r)
	r.checkLaterLocked()
}

// A relayed is a request that was relayed and is not complete.
type relayed struct {
	forward Forward
	route   *route
	lane    *lane
	number  int64
	since   time.Time // when it was relayed
	heard   time.Time // when something was heard of it last, or it was relayed
}

// removeLocked notes that a request is not relayed any more.
func (r *Relay) removeLocked(x *relayed) {
	delete(r.sent, x.number)
	x.lane.relayed--
}

// Receive handles a message of another instance. It returns an error if the message is not
// one.
func (r *Relay) Receive(sealed []byte) error {
	body, ok := r.o.Sealer.OpenMessage(sealed)
	if !ok {
		return errMalformed
	}
	m, err := decode(body)
	if err != nil {
		return err
	}
	for _, q := range m.requests {
		r.receiveRequest(m.from, q)
	}
	r.receiveReport(m)
	return nil
}

// receiveRequest has a request of another instance carried out, or refuses it.
func (r *Relay) receiveRequest(from partition.Member, q *Request) {
	r.mu.Lock()
	key := acceptedKey{from, q.Number}
	r.accepted[key] = time.Now()
	r.checkLaterLocked()
	r.mu.Unlock()
	r.o.Accept(from, q)
}

// ReadAsk returns the asking instance, and the number that its answer and its requests have. ok is
// false for something else than an ask.
func (r *Relay) ReadAsk(sealed []byte) (from partition.Member, ask int64, ok bool) {
	body, ok := r.o.Sealer.OpenAsk(sealed)
	if !ok {
		return from, 0, false
	}
	from, ask, err := decodeAsk(body)
	return from, ask, err == nil
}

// Answer answers an ask that has come out of the queue of a partition. The actors of this
// instance have all requests that were before it.
func (r *Relay) Answer(from partition.Member, p int, ask int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from == r.o.Self {
		r.answeredLocked(from, Answer{p, ask})
		return
	}
	l := r.laneLocked(from)
	l.waiting.answers = append(l.waiting.answers, Answer{p, ask})
	l.kickLocked(r)
}

// Close sends nothing more. All requests that are not complete go to the queues.
func (r *Relay) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for p := range r.routes {
		r.setQueuedLocked(&r.routes[p], false)
	}
	for member := range r.lanes {
		r.closeLaneLocked(member)
	}
}
