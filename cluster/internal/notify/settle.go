package notify

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/publish"
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
	n.state.remove(out)
	var rejected *publish.RejectedError
	switch {
	case errors.Is(err, publish.ErrLost):
		g.lose(out.round)
		if l.open {
			n.state.fallBehind(l, x.Position)
		}
		return
	case errors.As(err, &rejected):
		g.lose(out.round)
		n.o.Log.Error("the broker does not take a notification; those of its user are held back",
			zap.Int("partition", x.Lease.Partition), zap.Int64("position", x.Position), zap.Int64("user_id", x.UserID), zap.Error(err))
	case g.refuse(out.round, errors.Is(err, publish.ErrUnconfirmed), time.Now()):
		n.o.Log.Warn("a subscriber's queue does not take notifications; they are held back",
			zap.String("routing_key", x.RoutingKey), zap.Int("partition", x.Lease.Partition), zap.Int64("position", x.Position), zap.Error(err))
	}
	n.o.Metrics.Refused.Inc()
	if l.open {
		key := x.RoutingKey
		if rejected != nil {
			key = ""
		}
		n.state.hold(l, x.UserID, x.Position, key)
	}
}

// accept notes that the broker has accepted a notification. It is deleted when all earlier
// ones of the user are. So if one of those is refused, this one follows it again.
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
	all := s.users[x.UserID]
	for len(all) > 0 && all[0].accepted {
		s.complete(l, all[0])
		all = all[1:]
	}
	s.setPending(l, x.UserID, all)
}

// complete has an accepted notification deleted, or sent again.
func (s *state) complete(l *lane, out *outbound) {
	x := &out.notification
	switch {
	case !out.again:
		s.confirm(x.Key())
		if l.pass != nil {
			l.pass.done[x.Position] = struct{}{}
		}
	case !l.open:
	case l.held[x.UserID] != nil:
		l.held[x.UserID].clean = false
		l.skip(x.Position)
	default:
		s.fallBehind(l, x.Position)
	}
}

// remove removes a notification that has to be sent again from the pending ones of its
// user. The later ones have to follow it again.
func (s *state) remove(out *outbound) {
	user := out.notification.UserID
	var rest []*outbound
	after := false
	for _, o := range s.users[user] {
		if o == out {
			after = true
			continue
		}
		o.again = o.again || after
		rest = append(rest, o)
	}
	l := &s.lanes[out.notification.Lease.Partition]
	for len(rest) > 0 && rest[0].accepted {
		s.complete(l, rest[0])
		rest = rest[1:]
	}
	s.setPending(l, user, rest)
}

// setPending sets the pending notifications of a user. If there are none, those that are
// held back may follow.
func (s *state) setPending(l *lane, user int64, all []*outbound) {
	if len(all) > 0 {
		s.users[user] = all
		return
	}
	delete(s.users, user)
	h := l.held[user]
	if h == nil || h.key == "" {
		return
	}
	if !s.gate(h.key).isClosed() {
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
