package ownership

import (
	"slices"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
)

// TableVersion is the version of [Assign]. Members with different versions do not work
// together. It has to be raised with each change that assigns even one partition
// differently.
const TableVersion = 1

// Assign returns the member that owns each partition. The result depends on the
// arguments alone, and not on order or repetitions in members, so instances that see
// the same members agree. No member has more than the average plus a quarter, rounded
// up. If there are more members than partitions, some members have none. Without
// members, each owner is "".
func Assign(members []string, partitions int) []string {
	if partitions < 1 {
		return nil
	}
	members = slices.Clone(members)
	slices.Sort(members)
	return NewTable(partitions).Assign(slices.Compact(members))
}

// A Table is a hash ring that is updated by the members that join and leave. With
// hundreds of members, an update costs a hundredth of a new ring. It is not safe for
// concurrent use.
type Table struct {
	partitions int
	names      []string // the members of ring
	ring       *consistent.Consistent
}

// NewTable returns a table without members.
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

// Assign is like the function [Assign] for names that are sorted and distinct.
func (t *Table) Assign(names []string) []string {
	// Names that stay are not removed, so the ring is never empty in between, unless
	// all names change.
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

// containsSorted reports whether the sorted names contain name.
func containsSorted(sorted []string, name string) bool {
	_, found := slices.BinarySearch(sorted, name)
	return found
}

type ringMember string

func (m ringMember) String() string { return string(m) }

type hasher struct{}

func (hasher) Sum64(key []byte) uint64 { return xxhash.Sum64(key) }
