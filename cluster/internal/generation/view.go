package generation

import (
	"context"
	"slices"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A View is a store as an instance in one generation sees it.
type View struct {
	Store
	generation partition.Generation
}

// NewView returns the view of a store in a generation.
func NewView(s Store, g partition.Generation) Store {
	return &View{Store: s, generation: g}
}

// out returns a lease with the number that its partition has in the database. The zero lease is none.
func (v *View) out(l partition.Lease) partition.Lease {
	if l.Epoch != 0 {
		l.Partition += v.generation.First
	}
	return l
}

func (v *View) outAll(all []partition.Lease) []partition.Lease {
	numbered := slices.Clone(all)
	for i := range numbered {
		numbered[i].Partition += v.generation.First
	}
	return numbered
}

// in is the opposite of out. ok is false for a partition of another generation.
func (v *View) in(l partition.Lease) (_ partition.Lease, ok bool) {
	l.Partition -= v.generation.First
	return l, l.Partition >= 0 && l.Partition < v.generation.Partitions
}

// Commit implements [actor.Store].
func (v *View) Commit(ctx context.Context, lease partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
	return v.Store.Commit(ctx, v.out(lease), writes)
}

// Claim implements [coordinate.LeaseStore].
func (v *View) Claim(ctx context.Context, claims []ownership.Claim) ([]ownership.Event, error) {
	claims = slices.Clone(claims)
	for i := range claims {
		claims[i].Partition += v.generation.First
	}
	events, err := v.Store.Claim(ctx, claims)
	for i, e := range events {
		switch e := e.(type) {
		case ownership.Claimed:
			e.Partition -= v.generation.First
			events[i] = e
		case ownership.ClaimFailed:
			e.Partition -= v.generation.First
			events[i] = e
		case ownership.ClaimRefused:
			e.Row.Partition -= v.generation.First
			events[i] = e
		}
	}
	return events, err
}

// Release implements [coordinate.LeaseStore].
func (v *View) Release(ctx context.Context, leases []partition.Lease) error {
	return v.Store.Release(ctx, v.outAll(leases))
}

// HandOver implements [coordinate.LeaseStore].
func (v *View) HandOver(ctx context.Context, all []ownership.HandOver) ([]ownership.HandedOver, error) {
	all = slices.Clone(all)
	for i := range all {
		all[i].Partition += v.generation.First
	}
	answers, err := v.Store.HandOver(ctx, all)
	for i := range answers {
		answers[i].Partition -= v.generation.First
	}
	return answers, err
}

// Survey implements [coordinate.LeaseStore]. It returns the rows of this generation alone.
func (v *View) Survey(ctx context.Context) (own []ownership.Row, err error) {
	rows, err := v.Store.Survey(ctx)
	for _, row := range rows {
		if lease, ok := v.in(row.Lease); ok {
			own = append(own, ownership.Row{Lease: lease, Released: row.Released})
		}
	}
	return own, err
}

// EndedLeases implements [ReadLeaseStore].
func (v *View) EndedLeases(ctx context.Context, leases []partition.Lease) ([]partition.Lease, error) {
	ended, err := v.Store.EndedLeases(ctx, v.outAll(leases))
	for i := range ended {
		ended[i].Partition -= v.generation.First
	}
	return ended, err
}

// TakeOver implements [notify.Outbox].
func (v *View) TakeOver(ctx context.Context, by ownership.Member, leases []partition.Lease) ([]actor.TakenOver, error) {
	taken, err := v.Store.TakeOver(ctx, by, v.outAll(leases))
	for i := range taken {
		taken[i].Lease.Partition -= v.generation.First
	}
	return taken, err
}

// ReadNotifications implements [notify.Outbox].
func (v *View) ReadNotifications(ctx context.Context, number int, after int64, limit int) ([]actor.PendingNotification, bool, error) {
	page, more, err := v.Store.ReadNotifications(ctx, v.generation.First+number, after, limit)
	for i := range page {
		page[i].Lease.Partition -= v.generation.First
	}
	return page, more, err
}

// SetNotificationSink implements [NotificationStore].
func (v *View) SetNotificationSink(sink actor.NotificationSink) {
	if sink != nil {
		sink = &viewSink{sink, v}
	}
	v.Store.SetNotificationSink(sink)
}

// A viewSink passes to a sink what belongs to the generation of a view.
type viewSink struct {
	sink actor.NotificationSink
	view *View
}

func (s *viewSink) Send(n actor.PendingNotification) {
	var ok bool
	if n.Lease, ok = s.view.in(n.Lease); ok {
		s.sink.Send(n)
	}
}

func (s *viewSink) Missed(l partition.Lease) {
	if l, ok := s.view.in(l); ok {
		s.sink.Missed(l)
	}
}

func (s *viewSink) Progress(l partition.Lease) (p actor.NotificationProgress, ok bool) {
	if l, ok := s.view.in(l); ok {
		return s.sink.Progress(l)
	}
	return p, false
}

func (s *viewSink) Abandon(l partition.Lease) {
	if l, ok := s.view.in(l); ok {
		s.sink.Abandon(l)
	}
}
