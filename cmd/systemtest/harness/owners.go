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
	// calmFor is how long nothing happens before it counts as calm.
	calmFor = 2 * time.Second

	// calmWithin is far more than any change of owners takes.
	calmWithin = time.Minute
)

// Owners reads who owns which partition.
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

// AwaitStableOwners waits until the partitions are owned by these instances, each of
// which has some, and no partition changes hands for a while in which steady
// says that all is well.
func (s *Site) AwaitStableOwners(t *testing.T, instances []string, steady func() bool) []Lease {
	t.Helper()
	deadline := time.Now().Add(calmWithin)
	var last []Lease
	for since := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		owners := s.Owners(t)
		switch {
		case !slices.Equal(owners, last), !OwnedBy(owners, instances), !steady():
			last, since = owners, time.Now()
		case time.Since(since) >= calmFor:
			return owners
		}
		if time.Now().After(deadline) {
			t.Fatalf("there is no calm: %s", CountOwners(owners))
		}
	}
}

// OwnedBy says that all partitions are owned, by these instances, each of which
// owns some.
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

// CountOwners says who owns how many.
func CountOwners(owners []Lease) string {
	count := make(map[string]int)
	for _, o := range owners {
		if o.Released {
			o.Holder = "nobody any more"
		}
		count[o.Holder]++
	}
	text := strings.TrimPrefix(fmt.Sprint(count), "map")
	return fmt.Sprintf("%d partitions, owned by %s", len(owners), text)
}

// CountOwned says how many partitions an instance owns.
func CountOwned(owners []Lease, instance string) (n int) {
	for _, o := range owners {
		if o.Holder == instance && !o.Released {
			n++
		}
	}
	return n
}

// An Lease is a row of the table of who owns which partition.
type Lease struct {
	Holder   string
	Epoch    int64
	Released bool
}
