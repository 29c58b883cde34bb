package consume

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// preferredRate and preferredInFlight are the rate per second and the number of requests in flight,
	// of all instances together, from which an instance asks for all requests. With fewer requests
	// no two of them would share a message.
	preferredRate     = 500
	preferredInFlight = 24

	// leastRate and leastInFlight are what the instance itself must have to ask for all. With less than
	// half of it for lowTicks, the instance asks for its share again.
	leastRate     = 160
	leastInFlight = 8
	lowTicks      = 3

	// preferSamples is how many requests are received while the rate is measured.
	preferSamples = 32

	// busyAbove is the share of the processors above which an instance is busy. It does not ask for
	// all requests for busyFor after that, or after a failure.
	busyAbove = 0.7
	busyFor   = time.Minute

	// roomTimes is how many times the usual prefetch count an instance has while several callers ask, and
	// crowdedFor is how long it keeps that after its requests have last filled the usual one.
	roomTimes  = 8
	crowdedFor = 10 * time.Second
)

// A Preference decides whether an instance asks the broker for all requests of a queue that
// others consume too, or for its share. It asks by the priority of its consumer: the broker
// sends a request to the consumer with the highest priority of those that have room for it.
//
// While each of N instances gets its share, requests are forwarded between N·(N-1) pairs of
// instances. If one instance gets all, there are N-1 pairs, and more requests share each
// message, group commit, acknowledgement and query. So an instance asks for all under
// load. When several do so at the same time, the one with the highest priority gets the
// requests, and the others soon ask for their share again. They get what the first one has no
// room for, and may then ask for all of that.
//
// While several callers ask and the requests in flight fill the usual prefetch count, it is eight times
// as large, so that the instance sees the requests of all callers and can let them take turns.
//
// An instance that asks for all has a prefetch count of half more than it usually has
// in flight. So it keeps few more requests from the others if it freezes.
//
// Each instance decides alone, and a wrong decision costs speed only. A Preference is safe
// for concurrent use.
type Preference struct {
	usual    int // the prefetch count while it asks for its share, and few callers ask
	priority int // while it asks for all

	mu        sync.Mutex // guards the following fields
	instances int        // that share the requests
	prefetch  int        // while the instance asks for all; 0: it asks for its share
	crowded   time.Time  // several callers have filled the usual prefetch count
	wide      bool       // because of that, the prefetch count is larger
	unfit     time.Time  // it was busy, not ready, or failed to carry out a request

	inFlight int
	peak     int       // the most that were in flight since the last tick
	samples  int       // requests since sampled
	sampled  time.Time // when the measurement of the rate began
	received int       // requests since the last tick
	ticked   time.Time // the last tick
	low      int       // ticks in succession with less than the instance must have
}

// NewPreference returns the Preference of an instance that asks for its share. prefetch is the
// usual prefetch count of the queue's consumers.
func NewPreference(prefetch int, now time.Time) *Preference {
	return &Preference{usual: prefetch, priority: 1 + rand.IntN(1<<30), instances: 1, ticked: now}
}

// Consumer returns the priority and the prefetch count that the instance's consumer should
// have.
func (p *Preference) Consumer() (priority, prefetch int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.prefetch > 0 {
		return p.priority, p.prefetch
	}
	return 0, p.mostLocked()
}

// mostLocked returns the largest prefetch count that the instance should have.
func (p *Preference) mostLocked() int {
	if p.wide {
		return RoomFor(p.usual)
	}
	return p.usual
}

// RoomFor returns the prefetch count of an instance with so many requests under way, while several
// callers ask.
func RoomFor(underWay int) int { return min(roomTimes*underWay, math.MaxUint16) }

// UnderWay returns how many requests of the queue the instance should carry out at the same time: each,
// or as many for each instance while it asks for all, since the instances share the work then.
func (p *Preference) UnderWay(each int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.prefetch > 0 {
		return each * p.instances
	}
	return each
}

// AsksForAll reports whether the instance asks for all requests.
func (p *Preference) AsksForAll() bool {
	priority, _ := p.Consumer()
	return priority > 0
}

// Begin notes that a request was received. It returns true if another consumer is needed.
func (p *Preference) Begin(now time.Time) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.received++
	p.inFlight++
	p.peak = max(p.peak, p.inFlight)
	if p.prefetch > 0 || p.instances == 1 || now.Sub(p.unfit) < busyFor {
		return false
	}
	if p.samples == 0 {
		p.sampled = now
	}
	if p.samples++; p.samples <= preferSamples {
		return false
	}
	rate := max(leastRate, preferredRate/float64(p.instances))
	inFlight := max(leastInFlight, preferredInFlight/p.instances)
	p.samples = 0
	if preferSamples < rate*now.Sub(p.sampled).Seconds() || p.peak < inFlight {
		return false
	}
	p.prefetch = p.prefetchFor(p.peak * p.instances)
	return true
}

// End notes that a request is complete.
func (p *Preference) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight--
}

// NoteCallers notes how many callers have sent requests lately. It is called after Begin for each request,
// and returns true if another consumer is needed.
func (p *Preference) NoteCallers(now time.Time, callers int) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if callers < 2 || p.inFlight < p.usual*3/4 {
		return false
	}
	p.crowded = now
	if p.wide {
		return false
	}
	p.wide = true
	if p.prefetch > 0 {
		p.prefetch = p.mostLocked()
	}
	return true
}

// NoteFailure notes that the instance could not carry out a request. It returns true if another
// consumer is needed: an instance that fails at once has always room for more requests.
func (p *Preference) NoteFailure(now time.Time) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unfit = now
	return p.shareLocked()
}

// shareLocked has the instance ask for its share. It returns false if it does so already.
func (p *Preference) shareLocked() (changed bool) {
	changed = p.prefetch > 0
	p.prefetch, p.samples, p.low = 0, 0, 0
	return changed
}

// prefetchFor returns the prefetch count of an instance that gets all requests.
func (p *Preference) prefetchFor(inFlight int) int {
	if p.wide {
		return p.mostLocked()
	}
	return min(p.usual, max(preferredInFlight, inFlight*3/2))
}

// Tick is called about once per second. instances is the number of those that share the requests. cpu
// is the share of the processors that this process has used since the last tick. able is false if the
// instance should not get more requests than others. Tick returns true if another consumer is needed.
func (p *Preference) Tick(now time.Time, instances int, cpu float64, able bool) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	perSecond, peak := float64(p.received)/now.Sub(p.ticked).Seconds(), p.peak
	p.received, p.peak, p.ticked = 0, p.inFlight, now
	p.instances = max(1, instances)
	if cpu > busyAbove || !able {
		p.unfit = now
	}
	wasWide := p.wide
	p.wide = !p.crowded.IsZero() && now.Sub(p.crowded) < crowdedFor
	return p.tickLocked(now, perSecond, peak) || p.wide != wasWide
}

// tickLocked decides whether an instance goes on to ask for all. It returns true if another consumer is
// needed.
func (p *Preference) tickLocked(now time.Time, perSecond float64, peak int) (changed bool) {
	if p.prefetch == 0 {
		return false
	}
	if p.instances == 1 || p.unfit == now {
		return p.shareLocked()
	}
	if perSecond < leastRate/2 || peak < leastInFlight/2 {
		p.low++
		return p.low >= lowTicks && p.shareLocked()
	}
	p.low = 0
	// The broker counts requests, too, whose acknowledgements wait for others.
	isFull, isEmpty := peak >= p.prefetch*3/4 && p.prefetch < p.usual, peak*3 < p.prefetch
	wasWide := p.prefetch > p.usual
	if !p.wide && !wasWide && !isFull && !isEmpty {
		return false
	}
	before := p.prefetch
	p.prefetch = p.prefetchFor(peak)
	return p.prefetch != before
}
