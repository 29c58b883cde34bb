package generation

import (
	"context"
	"reflect"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A numberedStore notes the partitions that it is asked for, and answers with them.
type numberedStore struct {
	Store
	asked []int
	sink  actor.NotificationSink
}

func (s *numberedStore) ask(leases ...partition.Lease) {
	for _, l := range leases {
		s.asked = append(s.asked, l.Partition)
	}
}

func (s *numberedStore) Commit(_ context.Context, l partition.Lease, _ []*actor.Write) ([]actor.Outcome, error) {
	s.ask(l)
	return nil, nil
}

func (s *numberedStore) Claim(_ context.Context, claims []ownership.Claim) (events []ownership.Event, _ error) {
	for _, c := range claims {
		s.asked = append(s.asked, c.Partition)
	}
	n := claims[0].Partition
	return []ownership.Event{
		ownership.Claimed{Partition: n}, ownership.ClaimFailed{Partition: n}, ownership.ClaimRefused{Row: ownership.Row{Lease: partition.Lease{Partition: n}}},
	}, nil
}

func (s *numberedStore) Release(_ context.Context, leases []partition.Lease) error {
	s.ask(leases...)
	return nil
}

func (s *numberedStore) HandOver(_ context.Context, all []ownership.HandOver) (answers []ownership.HandedOver, _ error) {
	for _, h := range all {
		s.ask(h.Lease)
		answers = append(answers, ownership.HandedOver{Partition: h.Partition})
	}
	return answers, nil
}

func (s *numberedStore) Survey(context.Context) (rows []ownership.Row, _ error) {
	for p := range 12 {
		rows = append(rows, ownership.Row{Lease: partition.Lease{Partition: p}, Released: p%2 == 0})
	}
	return rows, nil
}

func (s *numberedStore) EndedLeases(_ context.Context, leases []partition.Lease) ([]partition.Lease, error) {
	s.ask(leases...)
	return leases, nil
}

func (s *numberedStore) TakeOver(_ context.Context, _ ownership.Member, leases []partition.Lease) ([]actor.TakenOver, error) {
	s.ask(leases...)
	return []actor.TakenOver{{Lease: leases[0]}}, nil
}

func (s *numberedStore) ReadNotifications(_ context.Context, number int, _ int64, _ int) ([]actor.PendingNotification, bool, error) {
	s.asked = append(s.asked, number)
	return []actor.PendingNotification{{Lease: partition.Lease{Partition: number}}}, false, nil
}

func (s *numberedStore) SetNotificationSink(sink actor.NotificationSink) { s.sink = sink }

// A numberedSink notes the partitions that it is told of.
type numberedSink struct{ told []int }

func (s *numberedSink) Send(n actor.PendingNotification) { s.told = append(s.told, n.Lease.Partition) }
func (s *numberedSink) Missed(l partition.Lease)         { s.told = append(s.told, l.Partition) }
func (s *numberedSink) Abandon(l partition.Lease)        { s.told = append(s.told, l.Partition) }
func (s *numberedSink) Progress(l partition.Lease) (actor.NotificationProgress, bool) {
	s.told = append(s.told, l.Partition)
	return actor.NotificationProgress{}, true
}

// TestView: each partition of the third generation of 4 has the number that the database knows, and
// what belongs to other generations is not seen.
func TestView(t *testing.T) {
	s := new(numberedStore)
	v := NewView(s, partition.Generation{First: 7, Partitions: 4})
	lease := partition.Lease{Partition: 2, Epoch: 1}
	v.Commit(t.Context(), lease, nil)
	v.Commit(t.Context(), partition.Lease{}, nil) // belongs to no user
	events, _ := v.Claim(t.Context(), []ownership.Claim{{Partition: 2}})
	v.Release(t.Context(), []partition.Lease{lease})
	answers, _ := v.HandOver(t.Context(), []ownership.HandOver{{Lease: lease}})
	ended, _ := v.EndedLeases(t.Context(), []partition.Lease{lease})
	taken, _ := v.TakeOver(t.Context(), ownership.Member{}, []partition.Lease{lease})
	page, _, _ := v.ReadNotifications(t.Context(), 2, 0, 1)
	if want := []int{9, 0, 9, 9, 9, 9, 9, 9}; !reflect.DeepEqual(s.asked, want) {
		t.Errorf("asked for %v, want %v", s.asked, want)
	}
	row := ownership.ClaimRefused{Row: ownership.Row{Lease: partition.Lease{Partition: 2}}}
	if want := []ownership.Event{ownership.Claimed{Partition: 2}, ownership.ClaimFailed{Partition: 2}, row}; !reflect.DeepEqual(events, want) {
		t.Errorf("%+v", events)
	}
	if answers[0].Partition != 2 || ended[0] != lease || taken[0].Lease != lease || page[0].Lease.Partition != 2 || lease.Partition != 2 {
		t.Error(answers, ended, taken, page)
	}
	rows, _ := v.Survey(t.Context())
	if len(rows) != 4 || rows[0].Partition != 0 || rows[0].Released || !rows[3].Released {
		t.Errorf("%+v", rows)
	}

	sink := new(numberedSink)
	v.SetNotificationSink(sink)
	for _, number := range []int{6, 7, 10, 11} {
		l := partition.Lease{Partition: number}
		s.sink.Send(actor.PendingNotification{Lease: l})
		s.sink.Missed(l)
		s.sink.Abandon(l)
		if _, ok := s.sink.Progress(l); ok != (number == 7 || number == 10) {
			t.Errorf("progress of %d: %v", number, ok)
		}
	}
	if want := []int{0, 0, 0, 0, 3, 3, 3, 3}; !reflect.DeepEqual(sink.told, want) {
		t.Errorf("told of %v, want %v", sink.told, want)
	}
	if v.SetNotificationSink(nil); s.sink != nil {
		t.Error("there is still a sink")
	}
}
