package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestClusterParameters(t *testing.T) {
	t.Run("first_instance_decides", testClusterParametersFirstInstanceDecides)
	t.Run("error_names_all_differences", testClusterParametersErrorNamesAllDifferences)
}

func testClusterParametersFirstInstanceDecides(t *testing.T) {
	h := storetest.Start(t)
	h.Exec("TRUNCATE ident_cluster, ident_partitions")
	other := h.OpenStore()
	errs := make([]error, 20)
	var agreeing sync.WaitGroup
	for i := range errs {
		s := []*store.Store{h.Store, other}[i/2%2]
		agreeing.Go(func() { errs[i] = s.EnsureParameters(t.Context(), storetest.Parameters(16+16*(i%2))) })
	}
	agreeing.Wait()
	rows, err := h.OpenStore().Survey(t.Context()) // which has seen no epochs
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range errs {
		ours := 16 + 16*(i%2)
		if ours == len(rows) {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		var mismatch *store.ParametersError
		want := fmt.Sprintf("the cluster in this database has %d partitions, and the settings say %d", len(rows), ours)
		if !errors.As(err, &mismatch) || err.Error() != want || mismatch.Theirs.Partitions != len(rows) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for p, row := range rows {
		if row != (ownership.Row{Lease: partition.Lease{Partition: p}, Released: true}) {
			t.Errorf("%+v", row)
		}
	}
}

func testClusterParametersErrorNamesAllDifferences(t *testing.T) {
	h := storetest.Start(t)
	ours := ownership.Parameters{Partitions: 5, QueueType: "classic", Table: ownership.TableVersion + 1}
	want := fmt.Sprintf("the cluster in this database has 4 partitions, and the settings say 5; it has quorum queues, and the settings say classic; "+
		"it assigns partitions by table version %d, and this program by %d", ownership.TableVersion, ours.Table)
	if err := h.EnsureParameters(t.Context(), ours); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestNextStart(t *testing.T) {
	t.Run("ascends", testNextStartAscends)
}

func testNextStartAscends(t *testing.T) {
	h := storetest.Start(t)
	other := h.OpenStore()
	last := int64(0)
	for i := range 10 {
		n, err := []*store.Store{h.Store, other}[i%2].NextStart(t.Context())
		if err != nil || n <= last {
			t.Fatalf("%d after %d: %v", n, last, err)
		}
		last = n
	}
}

func TestTryRebind(t *testing.T) {
	t.Run("one_at_a_time_and_not_too_often", testTryRebindOneAtATimeAndNotTooOften)
}

func testTryRebindOneAtATimeAndNotTooOften(t *testing.T) {
	h := storetest.Start(t)
	other := h.OpenStore()
	never := func(context.Context) error { t.Error("called"); return nil }
	done, err := h.TryRebind(t.Context(), time.Hour, func(ctx context.Context) error {
		if done, err := other.TryRebind(ctx, 0, never); done || err != nil {
			t.Errorf("a second rebinding at the same moment: %v, %v", done, err)
		}
		return nil
	})
	if !done || err != nil {
		t.Fatal(done, err)
	}
	if done, err := other.TryRebind(t.Context(), time.Hour, never); done || err != nil {
		t.Errorf("repeated within the hour: %v, %v", done, err)
	}
	h.Exec("UPDATE ident_cluster SET rebound_at = now() - interval '61 minutes'")
	failure := errors.New("broker says no")
	if done, err := h.TryRebind(t.Context(), time.Hour, func(context.Context) error { return failure }); done || !errors.Is(err, failure) {
		t.Errorf("%v, %v", done, err)
	}
	if done, err := other.TryRebind(t.Context(), time.Hour, func(context.Context) error { return nil }); !done || err != nil {
		t.Errorf("after a failure: %v, %v", done, err)
	}
}
