package ownership

import (
	"slices"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
)

// TableVersion is the version of the function that [Assign] is. Members of
// another version do not work together, so it must be raised with any change
// that assigns only one partition differently.
const TableVersion = 1

// Assign says which of members has each partition. It depends on nothing but
// its arguments, and neither on the order nor on repetitions of members, so
// all who see the same members agree. No member has more than a quarter above
// the average, rounded up; with more members than partitions some have none.
// Without members, each partition's is "".
func Assign(members []string, partitions int) []string {
	if partitions < 1 {
		return nil
	}
	members = slices.Clone(members)
	slices.Sort(members)
	return NewTable(partitions).Assign(slices.Compact(members))
}

// A table is a hash ring that is changed by the members that come and go,
// which costs a hundredth of making it anew when there are hundreds of members.
type Table struct {
	partitions int
	names      []string // those in ring
	ring       *consistent.Consistent
}

func NewTable(partitions int) *Table {
	return &Table{
		partitions: partitions,
		ring: consistent.New(nil, consistent.Config{
			Hasher:            hasher{},
			PartitionCount:    partitions,
			ReplicationFactor: 100,
			Load:              1.25,
		}),
	}
}

// assign is Assign for names that are sorted and distinct.
func (t *Table) Assign(names []string) []string {
	// Whoever stays is kept, so the ring is never empty in between unless all
	// of it changes.
	for _, name := range t.names {
		if !containsSorted(names, name) {
			t.ring.Remove(name)
		}
	}
	for _, name := range names {
		if !containsSorted(t.names, name) {
			t.ring.Add(ringMember(name))
		}
	}
	t.names = slices.Clone(names)

	owners := make([]string, t.partitions)
	if len(names) > 0 {
		for p := range owners {
			owners[p] = t.ring.GetPartitionOwner(p).String()
		}
	}
	return owners
}

// contains reports whether name is among sorted.
func containsSorted(sorted []string, name string) bool {
	_, found := slices.BinarySearch(sorted, name)
	return found
}

type ringMember string

func (m ringMember) String() string { return string(m) }

type hasher struct{}

func (hasher) Sum64(key []byte) uint64 { return xxhash.Sum64(key) }
