package storetest

import (
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store"
)

// A Sink is a function that receives notifications.
type Sink func(actor.PendingNotification)

// Send implements [actor.NotificationSink].
func (s Sink) Send(n actor.PendingNotification) { s(n) }

// Missed implements [actor.NotificationSink].
func (Sink) Missed(int) {}

// StoredNotifications returns the first 100 stored notifications of a partition.
func StoredNotifications(t testing.TB, s *store.Store, partition int) []actor.PendingNotification {
	t.Helper()
	all, _, err := s.ReadNotifications(t.Context(), partition, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
