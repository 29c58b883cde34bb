package storetest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
)

// A Notifier is the notification sink of a store. It sends nothing: tests confirm notifications.
type Notifier struct {
	mu     sync.Mutex // guards the following fields
	sent   func(actor.PendingNotification)
	missed func(partition.Lease)
	lanes  map[int]*lane // by partition
}

// A lane has what was notified of a partition.
type lane struct {
	lease     partition.Lease
	started   bool // after TakeOver
	unread    bool // the log may have others
	last      int64
	confirmed map[int64]bool // positions
	greatest  int64          // of confirmed
	reported  int64          // the position of the last progress
	users     map[int64][]int64
}

func (n *Notifier) laneOf(number int) *lane {
	l := n.lanes[number]
	if l == nil {
		l = &lane{confirmed: make(map[int64]bool), users: make(map[int64][]int64)}
		n.lanes[number] = l
	}
	return l
}

func (l *lane) add(user, position int64) {
	all := l.users[user]
	if i, found := slices.BinarySearch(all, position); !found && !l.confirmed[position] {
		l.users[user] = slices.Insert(all, i, position)
	}
	l.last = max(l.last, position)
}

// Send implements [actor.NotificationSink].
func (n *Notifier) Send(x actor.PendingNotification) {
	n.mu.Lock()
	sent := n.sent
	n.laneOf(x.Lease.Partition).add(x.UserID, x.Position)
	n.mu.Unlock()
	if sent != nil {
		sent(x)
	}
}

// Missed implements [actor.NotificationSink].
func (n *Notifier) Missed(lease partition.Lease) {
	n.mu.Lock()
	missed := n.missed
	n.laneOf(lease.Partition).unread = true
	n.mu.Unlock()
	if missed != nil {
		missed(lease)
	}
}

// Abandon implements [actor.NotificationSink].
func (n *Notifier) Abandon(lease partition.Lease) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.laneOf(lease.Partition).lease == lease {
		delete(n.lanes, lease.Partition)
	}
}

// Progress implements [actor.NotificationSink].
func (n *Notifier) Progress(lease partition.Lease) (p actor.NotificationProgress, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.laneOf(lease.Partition)
	if !l.started || l.lease != lease || l.unread {
		return p, false
	}
	p = actor.NotificationProgress{Notified: l.last, Last: l.last, HeldBack: make(map[int64]int64)}
	for user, all := range l.users {
		if all[0] < l.greatest || all[0] <= l.reported {
			p.HeldBack[user] = all[0]
		} else {
			p.Notified = min(p.Notified, all[0]-1)
		}
	}
	p.Notified = max(p.Notified, l.reported)
	maps.DeleteFunc(p.HeldBack, func(_, first int64) bool { return first > p.Notified })
	l.reported = p.Notified
	return p, true
}

// NewNotifier returns a notifier of no store.
func NewNotifier() *Notifier { return &Notifier{lanes: make(map[int]*lane)} }

var notifiers sync.Map // *store.Store → *Notifier

// NotifierOf returns the notifier of a store.
func NotifierOf(s *store.Store) *Notifier {
	n, found := notifiers.LoadOrStore(s, NewNotifier())
	if !found {
		s.SetNotificationSink(n.(*Notifier))
	}
	return n.(*Notifier)
}

// OnSend has each notification of a store passed to sent.
func OnSend(s *store.Store, sent func(actor.PendingNotification)) {
	n := NotifierOf(s)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent = sent
}

// OnMissed has each lease of which notifications were missed passed to missed.
func OnMissed(s *store.Store, missed func(partition.Lease)) {
	n := NotifierOf(s)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.missed = missed
}

// Confirm says that the broker has taken notifications of a store.
func Confirm(s *store.Store, keys ...actor.NotificationKey) { NotifierOf(s).Confirm(keys...) }

// Confirm says that the broker has taken notifications.
func (n *Notifier) Confirm(keys ...actor.NotificationKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, key := range keys {
		l := n.laneOf(key.Partition)
		l.confirmed[key.Position], l.greatest = true, max(l.greatest, key.Position)
		all := l.users[key.UserID]
		switch i, found := slices.BinarySearch(all, key.Position); {
		case !found:
		case len(all) == 1:
			delete(l.users, key.UserID)
		case i == 0:
			l.users[key.UserID] = all[1:]
		default:
			l.users[key.UserID] = slices.Delete(all, i, i+1)
		}
	}
}

// TakeOver has a store take leases over. It returns those that by holds, and those of their
// partitions that have changes which may not have been notified.
func TakeOver(ctx context.Context, s *store.Store, by ownership.Member, leases []partition.Lease) (held []partition.Lease, backlog []int, err error) {
	taken, err := s.TakeOver(ctx, by, leases)
	for _, t := range taken {
		held = append(held, t.Lease)
		if NotifierOf(s).TakeOver(t) {
			backlog = append(backlog, t.Lease.Partition)
		}
	}
	return held, backlog, err
}

// TakeOver begins to note what is notified under a lease. It returns whether the log has to be
// read.
func (n *Notifier) TakeOver(t actor.TakenOver) (backlog bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.laneOf(t.Lease.Partition)
	l.lease, l.started, l.last, l.reported = t.Lease, true, max(l.last, t.Notified), t.Notified
	for user, position := range t.HeldBack {
		l.add(user, position)
	}
	l.unread = t.HasLater || len(t.HeldBack) > 0
	return l.unread
}

// StoredNotifications returns the first 100 stored notifications of a partition, without those
// that were confirmed to the store.
func StoredNotifications(t testing.TB, s *store.Store, partition int) (all []actor.PendingNotification) {
	t.Helper()
	n := NotifierOf(s)
	after := int64(0)
	for more := true; more && len(all) < 100; {
		var page []actor.PendingNotification
		var err error
		if page, more, err = s.ReadNotifications(t.Context(), partition, after, 100); err != nil {
			t.Fatal(err)
		}
		n.mu.Lock()
		l := n.laneOf(partition)
		for _, x := range page {
			if after = x.Position; !l.confirmed[x.Position] && len(all) < 100 {
				all = append(all, x)
				l.add(x.UserID, x.Position)
			}
		}
		l.unread = l.unread && more
		n.mu.Unlock()
	}
	return all
}
