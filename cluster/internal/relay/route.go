package relay

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// A state says where the requests of a partition go: see the package's documentation.
type state uint8

const (
	local state = iota
	queued
	flushing
	direct
)

// A route is where the requests of one partition go. The Relay's mu guards it.
type route struct {
	partition int
	isLocal   atomic.Bool // whether state is local; may be read without mu

	state state
	since time.Time // when the state began

	// ask is the number of the last ask: queued, of the one that is open (0: none is); direct, of
	// the one whose answer began it.
	ask    int64
	asked  time.Time     // queued: when the last ask was sent
	notAsk time.Time     // queued: no ask is sent before
	pause  time.Duration // how long the last fault has kept asks back

	serving bool             // flushing: this instance has answered, and is passing held to its actors
	owner   partition.Member // direct: the instance that serves the partition
	relayed []*relayed       // direct: in order
	count   int64            // direct: how many requests were relayed since it began
	held    []Forward        // flushing: in order

	// What is to be sent to the queue, in order. A goroutine works on it.
	todo    []func()
	working bool
}

// enqueueLocked calls f after everything that was enqueued before, without mu.
func (t *route) enqueueLocked(r *Relay, f func()) {
	t.todo = append(t.todo, f)
	if !t.working {
		t.working = true
		go t.work(r)
	}
}

func (t *route) work(r *Relay) {
	for {
		r.mu.Lock()
		todo := t.todo
		t.todo = nil
		t.working = len(todo) > 0
		r.mu.Unlock()
		if len(todo) == 0 {
			return
		}
		for _, f := range todo {
			f()
		}
	}
}

// enterLocked changes the state.
func (t *route) enterLocked(r *Relay, to state) {
	if t.state == flushing {
		r.flushing--
	}
	if to == flushing {
		r.flushing++
		r.checkLaterLocked()
	}
	t.state, t.since, t.serving = to, time.Now(), false
	t.isLocal.Store(to == local)
}

const (
	// firstPause and longestPause bound how long a partition's requests go to the queue after a fault of
	// the instance that serves it. Each pause is twice as long as the one before, unless there was no fault for
	// longestPause.
	firstPause   = time.Second
	longestPause = 30 * time.Second
)

// setQueuedLocked has all requests that are not complete, and all later ones, sent to the queue. fault says
// that the instance that serves the partition, or the way to it, is at fault.
func (r *Relay) setQueuedLocked(t *route, fault bool) {
	for _, x := range t.relayed {
		r.removeLocked(x)
		r.queueLocked(t, x.forward)
	}
	if len(t.relayed) > 0 {
		waiting := &t.relayed[0].lane.waiting
		waiting.requests = slices.DeleteFunc(waiting.requests, func(q *Request) bool { return q.Partition == t.partition })
	}
	for _, f := range t.held {
		r.queueLocked(t, f)
	}
	t.relayed, t.held = nil, nil
	if t.state == queued {
		return
	}
	t.notAsk = time.Time{}
	if fault {
		now := time.Now()
		if t.state == direct && now.Sub(t.since) > longestPause {
			t.pause = 0
		}
		t.pause = min(max(firstPause, 2*t.pause), longestPause)
		t.notAsk = now.Add(t.pause)
	}
	t.enterLocked(r, queued)
	t.ask = 0
}

// askLocked puts an ask into the queue of a partition whose requests go there, unless one is
// open.
func (r *Relay) askLocked(t *route) {
	if now := time.Now(); t.ask != 0 && now.Sub(t.asked) < askFor || now.Before(t.notAsk) || r.closed {
		return
	}
	r.sendAskLocked(t)
}

func (r *Relay) sendAskLocked(t *route) {
	t.ask, t.asked = r.nextNumberLocked(), time.Now()
	ask := r.o.Sealer.Ask(encodeAsk(r.o.Self, t.ask))
	t.enqueueLocked(r, func() { r.o.Ask(t.partition, ask) })
}

// answeredLocked handles the answer to an ask.
func (r *Relay) answeredLocked(from partition.Member, a Answer) {
	if a.Partition < 0 || a.Partition >= len(r.routes) || r.closed {
		return
	}
	switch t := &r.routes[a.Partition]; {
	case t.ask != a.Ask:
	case t.state == queued:
		t.enterLocked(r, flushing)
		r.sendAskLocked(t)
	case t.state == flushing && from == r.o.Self:
		t.serving = true
		t.enqueueLocked(r, func() { r.serveHeld(t) })
	case t.state == flushing:
		held := t.held
		t.held, t.owner, t.count = nil, from, 0
		t.enterLocked(r, direct)
		for _, f := range held {
			r.forwardLocked(t, f, false)
		}
	}
}

// serveHeld gives the requests that wait to the actors of this instance. It is called by work, so nothing is
// sent to the queue meanwhile.
func (r *Relay) serveHeld(t *route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for t.serving {
		held := t.held
		t.held = nil
		if len(held) == 0 {
			t.enterLocked(r, local)
			return
		}
		r.mu.Unlock()
		for len(held) > 0 && held[0].Serve() {
			held = held[1:]
		}
		r.mu.Lock()
		if len(held) == 0 {
			continue
		}
		r.setQueuedLocked(t, false)
		first := make([]func(), 0, len(held)+len(t.todo))
		for _, f := range held {
			first = append(first, f.SendToQueue)
		}
		t.todo = append(first, t.todo...)
	}
}
