package store_test

import (
	"slices"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
)

func TestPrepareConnections(t *testing.T) {
	t.Run("take_over_plans_nothing", testPrepareConnectionsTakeOverPlansNothing)
}

func testPrepareConnectionsTakeOverPlansNothing(t *testing.T) {
	h := start(t)
	id := h.create(1)
	h.release(h.lease)
	s := h.open()
	const content = `SELECT concat((SELECT array_agg(u) FROM users u), (SELECT array_agg(r) FROM ident_requests r), (SELECT array_agg(o) FROM ident_outbox o),
		(SELECT array_agg(a) FROM ident_audit a), (SELECT array_agg(p) FROM ident_partitions p))`
	was := h.one(content)
	s.PrepareConnections(t.Context())
	if is := h.one(content); is != was {
		t.Errorf("the preparation has changed the database:\n%v\n%v", was, is)
	}
	before, err := store.Planned(t.Context(), s)
	if err != nil || len(before) < 4 || slices.Min(before) < 20 {
		t.Fatalf("planned on each connection: %v, %v", before, err)
	}

	events, err := s.Claim(t.Context(), []ownership.Claim{{Partition: 0, By: member("next")}})
	if err != nil {
		t.Fatal(err)
	}
	lease := partition.Lease{Partition: 0, Epoch: events[0].(ownership.Claimed).Epoch}
	held, left, err := s.TakeOver(t.Context(), member("next"), []partition.Lease{lease}, 10)
	if err != nil || len(held) != 1 || len(left) != 1 {
		t.Fatalf("held: %v, left: %v, %v", held, left, err)
	}
	if more, err := s.PendingNotifications(t.Context(), []int{0}, left[0].ID, 0, 10); err != nil || len(more) > 0 {
		t.Fatalf("left: %v, %v", more, err)
	}
	s.ConfirmNotifications(left[0].ID)
	for _, message := range []string{"read", "cached"} {
		found, err := s.Find(t.Context(), &actor.Lookup{UserID: &id})
		if err != nil || found == nil {
			t.Fatalf("user %d: %v, %v", id, found, err)
		}
		w := request(t, "patch", message, args{"user_id": id, "ops": replace("/name", message)})
		if message == "cached" {
			w.Cached = found
		}
		if o, err := commit(t.Context(), s, lease, w); err != nil || !o.Applied {
			t.Fatalf("patch of a user %s: %+v, %v", message, o, err)
		}
	}
	for _, to := range []ownership.Member{member("third"), {}} {
		answers, err := s.HandOver(t.Context(), []ownership.HandOver{{Partition: 0, Epoch: lease.Epoch, To: to}})
		if err != nil || answers[0].To != to {
			t.Fatal(answers, err)
		}
		lease.Epoch++
	}
	after, err := store.Planned(t.Context(), s)
	if err != nil || !slices.Equal(slices.Sorted(slices.Values(after)), slices.Sorted(slices.Values(before))) {
		t.Errorf("planned on each connection: %v, %v; before: %v", after, err, before)
	}
}
