package harness

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// stableFor is how long owners may not change before they count as stable.
	stableFor = 2 * time.Second

	// stableTimeout is far more than any change of owners takes.
	stableTimeout = time.Minute
)

// Owners reads the leases of all partitions.
func (s *Site) Owners(t *testing.T) (owners []Lease) {
	t.Helper()
	rows, err := s.DB.Query(t.Context(), "SELECT coalesce(holder, ''), epoch, released FROM ident_partitions ORDER BY partition")
	if err != nil {
		t.Fatal(err)
	}
	owners, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (o Lease, err error) {
		return o, row.Scan(&o.Holder, &o.Epoch, &o.Released)
	})
	if err != nil {
		t.Fatal(err)
	}
	return owners
}

// AwaitStableOwners waits until these instances own all partitions, each at least one, and
// until, for stableFor, the owners have not changed and steady has returned true.
func (s *Site) AwaitStableOwners(t *testing.T, instances []string, steady func() bool) []Lease {
	t.Helper()
	var last []Lease
	since := time.Now()
	stable := func() bool {
		owners := s.Owners(t)
		if !slices.Equal(owners, last) || !OwnedBy(owners, instances) || !steady() {
			last, since = owners, time.Now()
		}
		return time.Since(since) >= stableFor
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("last seen: %s", CountOwners(last))
		}
	})
	EventuallyWithin(t, stableTimeout, "the owners are stable", stable)
	return last
}

// OwnedBy reports whether these instances own all partitions, each at least one.
func OwnedBy(owners []Lease, instances []string) bool {
	seen := make(map[string]bool)
	for _, o := range owners {
		if o.Released || !slices.Contains(instances, o.Holder) {
			return false
		}
		seen[o.Holder] = true
	}
	return len(seen) == len(instances)
}

// CountOwners prints how many partitions each instance owns.
func CountOwners(owners []Lease) string {
	count := make(map[string]int)
	for _, o := range owners {
		if o.Released {
			o.Holder = "nobody"
		}
		count[o.Holder]++
	}
	text := strings.TrimPrefix(fmt.Sprint(count), "map")
	return fmt.Sprintf("%d partitions, owned by %s", len(owners), text)
}

// CountOwned returns how many partitions an instance owns.
func CountOwned(owners []Lease, instance string) (n int) {
	for _, o := range owners {
		if o.Holder == instance && !o.Released {
			n++
		}
	}
	return n
}

// A Lease is a row of the table ident_partitions.
type Lease struct {
	Holder   string
	Epoch    int64
	Released bool
}
