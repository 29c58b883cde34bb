package notify

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
)

// runPasses sends from the log what the lanes have left there, until ctx is done.
func (n *Notifier) runPasses(ctx context.Context) {
	ticker := time.NewTicker(retryEvery)
	defer ticker.Stop()
	for {
		select {
		case <-n.ready:
		case <-ticker.C:
			n.wakeUsers(time.Now())
		case <-ctx.Done():
			return
		}
		n.probeAll(ctx)
		for again := true; again && ctx.Err() == nil; {
			again = false
			for _, number := range n.dueLanes() {
				again = n.step(ctx, number) || again
			}
		}
	}
}

// dueLanes returns the partitions with lanes that are due.
func (n *Notifier) dueLanes() (numbers []int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state.due == 0 {
		return nil
	}
	for p := range n.state.lanes {
		if n.state.lanes[p].due {
			numbers = append(numbers, p)
		}
	}
	return numbers
}

// wakeUsers has the lanes make a pass that hold a user back whose time has come.
func (n *Notifier) wakeUsers(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.state.lanes {
		l := &n.state.lanes[p]
		for _, h := range l.held {
			if h.key == "" && !now.Before(h.next) {
				n.state.setDue(l, true)
				break
			}
		}
	}
}

// step lets the pass of a lane go on until it needs another page. It returns false if the
// lane has nothing to do, or has to wait.
func (n *Notifier) step(ctx context.Context, number int) (again bool) {
	l := &n.state.lanes[number]
	p, pos := n.nextPage(l)
	if p == nil {
		return false
	}
	if pos < 0 { // there are rows
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.state.goOn(l, p)
	}
	page, more, err := n.readPage(ctx, number, pos, outboxPage)
	if err != nil {
		return false // the store has logged it; the next round tries again
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.pass == p {
		if p.rows = page; len(page) > 0 {
			p.end = page[len(page)-1].Position
		}
		p.read, p.last = true, !more && p.left <= p.end
	}
	return n.state.goOn(l, p)
}

// readPage reads notifications of a partition with positions above pos.
func (n *Notifier) readPage(ctx context.Context, partition int, pos int64, limit int) ([]actor.PendingNotification, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, outboxTimeout)
	defer cancel()
	return n.o.Outbox.ReadNotifications(ctx, partition, pos, limit)
}

// nextPage returns the pass of a lane, which it begins if it is due, and after which position
// the next page is to be read; -1 if rows are left. It returns nil if there is nothing to do.
func (n *Notifier) nextPage(l *lane) (p *pass, pos int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !l.open || !l.due || !n.state.connected {
		return nil, 0
	}
	if l.pass == nil {
		first := l.next
		for _, h := range l.held {
			h.clean, h.sent, h.first, first = true, false, noPosition, min(first, h.from)
		}
		if first == noPosition {
			l.looked, l.behind = noPosition, false
			n.state.setDue(l, false)
			return nil, 0
		}
		l.pass = &pass{pos: first - 1, end: first - 1}
		l.behind, l.stopped = true, stoppedAt{}
	}
	p = l.pass
	if p.read {
		return p, -1
	}
	p.left, p.added = 0, 0
	return p, p.pos
}

// probeAll sends a probe through each closed gate that allows one.
func (n *Notifier) probeAll(ctx context.Context) {
	n.mu.Lock()
	var keys []string
	now := time.Now()
	for key, g := range n.state.gates {
		if g.allowsProbe(now) && n.state.connected {
			keys = append(keys, key)
		}
	}
	n.mu.Unlock()
	for _, key := range keys {
		n.probe(ctx, key)
	}
}

// probe sends one notification with a key, if any is left.
func (n *Notifier) probe(ctx context.Context, key string) {
	number, position := n.findLeft(key)
	if position == noPosition {
		return
	}
	page, _, err := n.readPage(ctx, number, position-1, 1)
	if err != nil {
		return // the store has logged it
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l, g := &n.state.lanes[number], n.state.gate(key)
	if !l.open || !n.state.connected || !g.allowsProbe(time.Now()) {
		return
	}
	if len(page) == 0 || page[0].Position != position || page[0].RoutingKey != key || page[0].Body == nil {
		n.state.setDue(l, true) // it was deleted; a pass finds out what is left
		return
	}
	x := page[0]
	if _, any := l.isPending(x.UserID, x.Position); any || !n.state.window.fits(weight(&x), true) {
		return // until that is confirmed
	}
	switch h := l.held[x.UserID]; {
	case h == nil:
		n.state.hold(l, &x, key)
	case h.first != position:
		return // an earlier one is held back
	}
	n.state.enqueue(l, &outbound{notification: x, fromLog: true, probe: true, round: g.takeProbe(time.Now())})
	n.o.Log.Debug("held-back notification sent again", zap.Int("partition", x.Lease.Partition), zap.Int64("position", x.Position), zap.String("routing_key", key))
}

// findLeft returns a notification with a key that is left in the log, and its
// partition; noPosition if none is known.
func (n *Notifier) findLeft(key string) (number int, position int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.state.lanes {
		l := &n.state.lanes[p]
		if !l.open || l.pass != nil {
			continue
		}
		for user, h := range l.held {
			if _, any := l.isPending(user, h.first); h.key == key && h.first != noPosition && h.first <= l.looked && !any {
				return p, h.first
			}
		}
		if l.stopped.key == key {
			return p, l.stopped.position
		}
	}
	return 0, noPosition
}
