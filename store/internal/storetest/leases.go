package storetest

import (
	"testing"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
)

// Parameters returns what the instances of a cluster must agree on.
func Parameters(partitions int) ownership.Parameters {
	return ownership.Parameters{Partitions: partitions, Table: ownership.TableVersion, QueueType: "quorum"}
}

// Agree sets the number of partitions of the cluster.
func (h *Harness) Agree(partitions int) {
	h.T.Helper()
	if err := h.EnsureParameters(h.T.Context(), Parameters(partitions)); err != nil {
		h.T.Fatal(err)
	}
}

// Member returns a member for tests.
func Member(name string) ownership.Member {
	return ownership.Member{Name: name, Incarnation: ownership.Incarnation{Start: 7, Session: 3}}
}

// ClaimPartition claims a partition and deposes the holder of an epoch; 0 means no holder.
func (h *Harness) ClaimPartition(number int, depose int64) partition.Lease {
	h.T.Helper()
	lease := h.ClaimForOther(number, depose)
	if _, _, err := TakeOver(h.T.Context(), h.Store, lease.Holder, []partition.Lease{lease}); err != nil {
		h.T.Fatal(err)
	}
	return lease
}

// ClaimForOther is like ClaimPartition for a lease that another store takes over: a store writes
// what was notified under each lease that it has taken over.
func (h *Harness) ClaimForOther(number int, depose int64) partition.Lease {
	h.T.Helper()
	events, err := h.Claim(h.T.Context(), []ownership.Claim{{Partition: number, Attempt: 1, Depose: depose, By: Member("test")}})
	if err != nil {
		h.T.Fatal(err)
	}
	won, ok := events[0].(ownership.Claimed)
	if !ok {
		h.T.Fatalf("claim: %+v", events[0])
	}
	return partition.Lease{Partition: won.Partition, Epoch: won.Epoch, Holder: Member("test")}
}

// ReleaseLeases releases leases.
func (h *Harness) ReleaseLeases(leases ...partition.Lease) {
	h.T.Helper()
	if err := h.Release(h.T.Context(), leases); err != nil {
		h.T.Fatal(err)
	}
}

// PartitionRow returns the row of a partition in the epoch table.
func (h *Harness) PartitionRow(partition int) ownership.Row {
	h.T.Helper()
	rows, err := h.Survey(h.T.Context())
	if err != nil || len(rows) <= partition || rows[partition].Partition != partition {
		h.T.Fatal(rows, err)
	}
	return rows[partition]
}

// StoredRow is like PartitionRow, and the store does not learn of the row.
func (h *Harness) StoredRow(partition int) (row ownership.Row) {
	h.T.Helper()
	by := &row.Holder
	err := h.DB.QueryRow(h.T.Context(), `SELECT partition, epoch, coalesce(holder, ''), coalesce(holder_start, 0), coalesce(holder_session, 0), released
		FROM ident_partitions WHERE partition = $1`, partition).Scan(&row.Partition, &row.Epoch, &by.Name, &by.Incarnation.Start, &by.Incarnation.Session, &row.Released)
	if err != nil {
		h.T.Fatal(err)
	}
	return row
}

// Repartition begins another generation with so many partitions, and claims all of these. leases are
// those of the present generation. All changes must have been notified.
func Repartition(t testing.TB, s *store.Store, leases []partition.Lease, partitions int) (first int, claimed []partition.Lease) {
	t.Helper()
	g := store.Generations(s)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	given, err := g.Next(t.Context(), 2, "classic") // numbers that are never used
	must(err)
	must(g.Begin(t.Context(), given))
	_, up, err := g.Look(t.Context())
	must(err)
	must(g.GiveUp(t.Context(), up.Number, ""))
	next, err := g.Next(t.Context(), partitions, "quorum")
	must(err)
	must(g.Begin(t.Context(), next))
	_, r, err := g.Look(t.Context())
	must(err)
	number, ok, err := g.Start(t.Context(), r.Number, "test")
	if must(err); !ok {
		t.Fatal("another attempt is under way")
	}
	attempt := partition.Attempt{Number: r.Number, Attempt: number}
	must(g.EndGeneration(t.Context(), attempt, leases, 0))
	must(g.BeginGeneration(t.Context(), attempt))
	must(g.Finish(t.Context(), attempt))
	h := &Harness{T: t, Store: s}
	for p := range partitions {
		claimed = append(claimed, h.ClaimPartition(r.To.First+p, 0))
	}
	return r.To.First, claimed
}
