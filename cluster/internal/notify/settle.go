package notify

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/tracelog"
)

// settle notes what became of a notification.
func (n *Notifier) settle(out *outbound, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x := &out.notification
	l, g := &n.state.lanes[x.Lease.Partition], n.state.gate(x.RoutingKey)
	n.state.window.remove(weight(x), out.fromLog)
	if l.pending--; l.pending == 0 && l.drained != nil {
		close(l.drained)
		l.drained = nil
	}
	if n.state.due > 0 {
		n.ready.Notify()
	}
	if err == nil {
		n.state.accept(l, g, out)
		return
	}
	defer n.state.remove(out, !errors.Is(err, publish.ErrRefused))
	var rejected *publish.RejectedError
	switch {
	case errors.Is(err, publish.ErrLost):
		g.lose(out.round)
		if l.held != nil {
			n.state.holdLost(l, x)
		}
		return
	case errors.As(err, &rejected):
		g.lose(out.round)
		tracelog.With(n.o.Log, x.TraceParent).Error("the broker does not take a notification; those of its user are held back",
			zap.Int("partition", x.Lease.Partition), zap.Int64("position", x.Position), zap.Int64("user_id", x.UserID), zap.Error(err))
	case g.refuse(out.round, errors.Is(err, publish.ErrUnconfirmed), time.Now()):
		tracelog.With(n.o.Log, x.TraceParent).Warn("a subscriber's queue does not take notifications; they are held back",
			zap.String("routing_key", x.RoutingKey), zap.Int("partition", x.Lease.Partition), zap.Int64("position", x.Position), zap.Error(err))
	}
	n.o.Metrics.Refused.Inc()
	if l.held != nil {
		key := x.RoutingKey
		if rejected != nil {
			key = ""
		}
		n.state.hold(l, x, key)
	}
}

// accept notes that the broker has accepted a notification. It is pending until all earlier
// ones of the user are accepted. So if one of those is refused, this one follows it again.
func (s *state) accept(l *lane, g *gate, out *outbound) {
	x := &out.notification
	s.metrics.Sent.Inc()
	if !out.committed.IsZero() {
		s.metrics.Lag.Observe(time.Since(out.committed).Seconds())
	}
	if g.accept(out.round) {
		s.retryAll()
	}
	out.accepted = true
	s.setPending(l, x.UserID, l.users[x.UserID])
}

// remove removes a notification that has to be sent again from the pending ones of its
// user. The later ones have to follow it again. undecided says that the broker may have it in no
// queue yet: then those that are not sent yet must not overtake it.
func (s *state) remove(out *outbound, undecided bool) {
	user := out.notification.UserID
	l := &s.lanes[out.notification.Lease.Partition]
	var rest []*outbound
	after := false
	for _, o := range l.users[user] {
		if o == out {
			after = true
			continue
		}
		o.again, o.overtakes = o.again || after, o.overtakes || after && undecided
		rest = append(rest, o)
	}
	s.setPending(l, user, rest)
}

// setPending sets the pending notifications of a user, without those that are confirmed. If
// there are none, those that are held back may follow.
func (s *state) setPending(l *lane, user int64, all []*outbound) {
	for ; len(all) > 0 && all[0].accepted; all = all[1:] {
		h, x := l.held[user], &all[0].notification
		switch {
		case h != nil && all[0].again:
			h.clean = false
		case h != nil:
			h.from = max(h.from, x.Position+1)
		case all[0].again && l.held != nil: // it was pending when the lane was opened
			s.holdLost(l, x)
		}
	}
	if len(all) > 0 {
		l.users[user] = all
		return
	}
	delete(l.users, user)
	h := l.held[user]
	if h == nil || h.key == "" {
		return
	}
	if l.open && s.mayFollow(l, h) {
		s.setDue(l, true)
	}
	s.ready.Notify() // for the pass, or because one of them may be the next probe
}

// retryAll has all lanes with something left make a pass.
func (s *state) retryAll() {
	for p := range s.lanes {
		if l := &s.lanes[p]; l.open && (l.behind || len(l.held) > 0) {
			s.setDue(l, true)
		}
	}
	s.ready.Notify()
}
