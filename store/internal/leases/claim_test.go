package leases_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

func TestClaim(t *testing.T) {
	t.Run("released_or_named_epoch_only", testClaimReleasedOrNamedEpochOnly)
	t.Run("many_are_answered_in_order", testClaimManyAreAnsweredInOrder)
	t.Run("one_winner_per_epoch", testClaimOneWinnerPerEpoch)
	t.Run("no_epoch_left", testClaimNoEpochLeft)
}

// TestEnded: a lease stands until the row has another epoch or holder, or is released.
func TestEnded(t *testing.T) {
	h := storetest.Start(t)
	h.Exec("UPDATE ident_partitions SET epoch = 5, holder = 'b', holder_start = 7, holder_session = 3, released = false")
	var all []partition.Lease
	for p := range 4 {
		all = append(all, partition.Lease{Partition: p, Epoch: 5, Holder: storetest.Member("b")})
	}
	expect := func(want ...int) {
		t.Helper()
		ended, err := h.EndedLeases(t.Context(), all)
		var got []int
		for _, l := range ended {
			if l != all[l.Partition] {
				t.Errorf("%+v was not asked for", l)
			}
			got = append(got, l.Partition)
		}
		if slices.Sort(got); err != nil || !slices.Equal(got, want) {
			t.Errorf("ended are %v, want %v; %v", got, want, err)
		}
	}
	expect()
	for _, change := range []string{"epoch = 6", "holder = 'a'", "holder_start = 8", "holder_session = 4", "released = true", "epoch = 4"} {
		h.Exec("UPDATE ident_partitions SET " + change + " WHERE partition IN (1, 2)")
		expect(1, 2)
		h.Exec("UPDATE ident_partitions SET epoch = 5, holder = 'b', holder_start = 7, holder_session = 3, released = false")
	}
	h.Exec("DELETE FROM ident_partitions WHERE partition = 3")
	expect(3)
}

func testClaimReleasedOrNamedEpochOnly(t *testing.T) {
	h := storetest.Start(t)
	row := func(epoch int64, holder string, released bool) ownership.Row {
		return ownership.Row{Lease: partition.Lease{Partition: 1, Epoch: epoch, Holder: storetest.Member(holder)}, Released: released}
	}
	for name, c := range map[string]struct {
		row    ownership.Row
		depose int64
		wins   bool
	}{
		"never held":                   {ownership.Row{Lease: partition.Lease{Partition: 1}, Released: true}, 0, true},
		"held":                         {row(4, "a", false), 0, false},
		"held, its epoch":              {row(4, "a", false), 4, true},
		"held, an earlier epoch":       {row(4, "a", false), 3, false},
		"held, a later epoch":          {row(4, "a", false), 5, false},
		"released":                     {row(4, "a", true), 0, true},
		"released, its epoch":          {row(4, "a", true), 4, true},
		"released, an earlier epoch":   {row(4, "a", true), 3, true},
		"held by the claimant, itself": {row(4, "b", false), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			by := c.row.Holder
			h.Exec(`UPDATE ident_partitions SET epoch = $1, holder = nullif($2, ''), holder_start = $3, holder_session = $4, released = $5
				WHERE partition = 1`, c.row.Epoch, by.Name, by.Incarnation.Start, by.Incarnation.Session, c.row.Released)
			if got := h.StoredRow(1); got != c.row {
				t.Fatalf("the row is %+v, want %+v", got, c.row)
			}
			events, err := h.Claim(t.Context(), []ownership.Claim{{Partition: 1, Attempt: 9, Depose: c.depose, By: storetest.Member("b")}})
			if err != nil || len(events) != 1 {
				t.Fatal(events, err)
			}
			var want ownership.Event = ownership.ClaimRefused{Attempt: 9, Row: c.row}
			after := c.row
			if c.wins {
				want = ownership.Claimed{Partition: 1, Attempt: 9, Epoch: c.row.Epoch + 1, Deposed: !c.row.Released}
				after = row(c.row.Epoch+1, "b", false)
			}
			if events[0] != want {
				t.Errorf("answer %+v, want %+v", events[0], want)
			}
			if got := h.StoredRow(1); got != after {
				t.Errorf("afterwards %+v, want %+v", got, after)
			}
		})
	}
}

func testClaimManyAreAnsweredInOrder(t *testing.T) {
	h := storetest.Start(t)
	h.Exec("INSERT INTO ident_partitions SELECT p, 0, NULL, NULL, NULL, true FROM generate_series(4, 16383) AS p")
	h.Exec("UPDATE ident_partitions SET epoch = 5, holder = 'a', holder_start = 7, holder_session = 3, released = false WHERE partition % 3 = 0")
	var claims []ownership.Claim
	for p := range 16384 {
		c := ownership.Claim{Partition: 16383 - p, Attempt: uint64(p), By: storetest.Member("b")}
		if p%2 == 0 {
			c.Depose = 5
		}
		claims = append(claims, c)
	}
	claims = append(claims, ownership.Claim{Partition: 2, Attempt: 20000, By: storetest.Member("b")}) // a second claim of the same partition
	begun := time.Now()
	events, err := h.Claim(t.Context(), claims)
	t.Log(len(claims), "claims took", time.Since(begun))
	if err != nil || len(events) != len(claims) {
		t.Fatal(len(events), err)
	}
	for i, c := range claims {
		held := c.Partition%3 == 0
		var want ownership.Event
		switch {
		case i == len(claims)-1 || held && c.Depose == 0:
			epoch, by := int64(5), storetest.Member("a")
			if !held {
				epoch, by = 1, storetest.Member("b")
			}
			want = ownership.ClaimRefused{Attempt: c.Attempt, Row: ownership.Row{Lease: partition.Lease{Partition: c.Partition, Epoch: epoch, Holder: by}}}
		case held:
			want = ownership.Claimed{Partition: c.Partition, Attempt: c.Attempt, Epoch: 6, Deposed: true}
		default:
			want = ownership.Claimed{Partition: c.Partition, Attempt: c.Attempt, Epoch: 1}
		}
		if events[i] != want {
			t.Fatalf("claim %+v: %+v, want %+v", c, events[i], want)
		}
	}
	if _, err := h.Claim(t.Context(), []ownership.Claim{{Partition: 16384, By: storetest.Member("b")}}); err == nil {
		t.Error("a partition that does not exist was claimed")
	}
}

// testClaimNoEpochLeft: the last epoch has positions. It costs no other partition anything that
// there is none after it.
func testClaimNoEpochLeft(t *testing.T) {
	h := storetest.Start(t)
	h.Exec("UPDATE ident_partitions SET epoch = $1, released = true WHERE partition = 0", changelog.MaxEpoch-1)
	last := h.ClaimPartition(0, 0)
	w := storetest.Request(t, "create", "", storetest.UserArgs(1))
	w.UserID = 4
	if _, err := storetest.Commit(t.Context(), h, last, w); err != nil {
		t.Fatal(err)
	}
	if all := h.StoredNotifications(); len(all) != 1 || changelog.EpochOf(all[0].Position) != changelog.MaxEpoch {
		t.Errorf("stored are %+v", all)
	}
	granted, err := h.HandOver(t.Context(), []ownership.HandOver{{Lease: last, To: storetest.Member("b")}})
	if err != nil || granted[0].To != (ownership.Member{}) || !h.StoredRow(0).Released {
		t.Errorf("handed over: %+v, %v, %+v", granted, err, h.StoredRow(0))
	}
	events, err := h.Claim(t.Context(), []ownership.Claim{{Partition: 0, Attempt: 1, By: storetest.Member("b")}, {Partition: 1, Attempt: 2, By: storetest.Member("b")}})
	if err != nil || events[0] != (ownership.ClaimFailed{Partition: 0, Attempt: 1}) || events[1] != (ownership.Claimed{Partition: 1, Attempt: 2, Epoch: 1}) {
		t.Errorf("%+v, %v", events, err)
	}
	if row := h.StoredRow(0); row.Epoch != changelog.MaxEpoch {
		t.Errorf("%+v", row)
	}
}

func testClaimOneWinnerPerEpoch(t *testing.T) {
	h := storetest.Start(t)
	stores := []*store.Store{h.Store, h.OpenStore(), h.OpenStore()}
	epoch := h.Lease.Epoch
	for round := range 10 {
		depose := epoch
		if round%2 == 1 {
			h.ReleaseLeases(h.StoredRow(0).Lease)
			depose = 0
		}
		var claiming sync.WaitGroup
		events := make([]ownership.Event, 8)
		for i := range events {
			claiming.Go(func() {
				answers, err := stores[i%3].Claim(t.Context(), []ownership.Claim{{Partition: 0, Attempt: uint64(i), Depose: depose, By: storetest.Member(fmt.Sprint(i))}})
				if err != nil {
					t.Error(err)
					return
				}
				events[i] = answers[0]
			})
		}
		claiming.Wait()
		epoch++
		winners := 0
		for i, e := range events {
			if e, won := e.(ownership.Claimed); won {
				winners++
				if e.Epoch != epoch || h.StoredRow(0).Holder != storetest.Member(fmt.Sprint(i)) {
					t.Errorf("round %d: %+v, and the epoch table says %+v", round, e, h.StoredRow(0))
				}
			}
		}
		if winners != 1 {
			t.Fatalf("round %d: %d winners", round, winners)
		}
	}
}

func TestRelease(t *testing.T) {
	t.Run("only_its_epoch", testReleaseOnlyItsEpoch)
	t.Run("notes_what_was_notified", testReleaseNotesWhatWasNotified)
}

func testReleaseOnlyItsEpoch(t *testing.T) {
	h := storetest.Start(t)
	next := h.ClaimPartition(0, h.Lease.Epoch)
	h.ReleaseLeases(h.Lease, partition.Lease{Partition: 3, Epoch: 8})
	if row := h.StoredRow(0); row.Released || row.Epoch != next.Epoch {
		t.Errorf("a lost lease was released: %+v", row)
	}
	for range 2 {
		h.ReleaseLeases(next)
		want := ownership.Row{Lease: partition.Lease{Partition: 0, Epoch: next.Epoch, Holder: storetest.Member("test")}, Released: true}
		if row := h.StoredRow(0); row != want {
			t.Errorf("released, the row is %+v, want %+v", row, want)
		}
	}
}

func testReleaseNotesWhatWasNotified(t *testing.T) {
	h := storetest.Start(t)
	for i := range 10 {
		h.CreateUser(i)
	}
	all := h.StoredNotifications()
	if len(all) != 10 {
		t.Fatal(len(all))
	}
	for _, n := range all[:7] {
		storetest.Confirm(h.Store, n.Key())
	}
	h.ReleaseLeases(h.Lease)
	next := h.OpenStore()
	h.ClaimPartition(0, 0)
	if left := storetest.StoredNotifications(t, next, 0); len(left) != 3 || left[0].Position != all[7].Position {
		t.Errorf("the next holder finds %+v", left)
	}
	// What this process confirms under the lease that has ended is not noted.
	storetest.Confirm(h.Store, all[7].Key(), all[8].Key())
	h.Store.Close() // writes what was notified once more
	if left := storetest.StoredNotifications(t, h.OpenStore(), 0); len(left) != 3 {
		t.Errorf("then, %d notifications are found", len(left))
	}
}
