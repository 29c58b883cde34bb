package systemtest

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

// owners reads who owns which partition.
func (s *site) owners(t *testing.T) (owners []owner) {
	t.Helper()
	rows, err := s.db.Query(t.Context(), "SELECT coalesce(holder, ''), epoch, released FROM ident_partitions ORDER BY partition")
	if err != nil {
		t.Fatal(err)
	}
	owners, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (o owner, err error) {
		return o, row.Scan(&o.holder, &o.epoch, &o.released)
	})
	if err != nil {
		t.Fatal(err)
	}
	return owners
}

// awaitCalm waits until the partitions are owned by these instances, each of
// which has some, and no partition changes hands for a while in which steady
// says that all is well.
func (s *site) awaitCalm(t *testing.T, instances []string, steady func() bool) []owner {
	t.Helper()
	deadline := time.Now().Add(calmWithin)
	var last []owner
	for since := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		owners := s.owners(t)
		switch {
		case !slices.Equal(owners, last), !ownedBy(owners, instances), !steady():
			last, since = owners, time.Now()
		case time.Since(since) >= calmFor:
			return owners
		}
		if time.Now().After(deadline) {
			t.Fatalf("there is no calm: %s", tally(owners))
		}
	}
}

// ownedBy says that all partitions are owned, by these instances, each of which
// owns some.
func ownedBy(owners []owner, instances []string) bool {
	seen := make(map[string]bool)
	for _, o := range owners {
		if o.released || !slices.Contains(instances, o.holder) {
			return false
		}
		seen[o.holder] = true
	}
	return len(seen) == len(instances)
}

// tally says who owns how many.
func tally(owners []owner) string {
	count := make(map[string]int)
	for _, o := range owners {
		if o.released {
			o.holder = "nobody any more"
		}
		count[o.holder]++
	}
	text := strings.TrimPrefix(fmt.Sprint(count), "map")
	return fmt.Sprintf("%d partitions, owned by %s", len(owners), text)
}

// held says how many partitions an instance owns.
func held(owners []owner, instance string) (n int) {
	for _, o := range owners {
		if o.holder == instance && !o.released {
			n++
		}
	}
	return n
}

// An owner is a row of the table of who owns which partition.
type owner struct {
	holder   string
	epoch    int64
	released bool
}
