package relay

import "time"

// checkLaterLocked has check called soon.
func (r *Relay) checkLaterLocked() {
	if !r.checking && !r.closed {
		r.checking, r.checked = true, time.Now()
		time.AfterFunc(checkEvery, r.check)
	}
}

// check sends requests to the queues of which nothing was heard for too long, and tells other instances
// which of their requests this one is still working on.
func (r *Relay) check() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	now := time.Now()
	if !r.wasStoppedLocked(now) {
		r.checkSentLocked(now)
	}
	for key, told := range r.accepted {
		if now.Sub(told) >= workingEvery {
			r.accepted[key] = now
			l := r.laneLocked(key.from)
			l.waiting.report.Working = append(l.waiting.report.Working, key.number)
			l.kickLocked(r)
		}
	}
	r.checking = false
	if len(r.sent)+len(r.accepted)+r.flushing > 0 {
		r.checkLaterLocked()
	}
}

// wasStoppedLocked reports whether this process was stopped shortly before. Then reports may wait to
// be read.
func (r *Relay) wasStoppedLocked(now time.Time) bool { return now.Sub(r.checked) > 3*checkEvery }

// checkSentLocked sends requests to the queues of which nothing was heard for too long.
func (r *Relay) checkSentLocked(now time.Time) {
	silent := make(map[*lane]bool)
	slow := make(map[*route]bool)
	for _, x := range r.sent {
		switch {
		case now.Sub(x.heard) > reportFor:
			silent[x.lane] = true
		case now.Sub(x.since) > workFor:
			slow[x.route] = true
		}
	}
	for _, l := range r.lanes {
		if l.sending && now.Sub(l.used) > sendFor {
			r.closeLaneLocked(l.to)
		}
	}
	for p := range r.routes {
		t := &r.routes[p]
		if t.state == direct && (silent[r.lanes[t.owner]] || slow[t]) || t.state == flushing && !t.serving && now.Sub(t.since) > flushFor {
			r.setQueuedLocked(t, true)
		}
	}
}
