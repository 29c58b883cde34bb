package hashring

import (
	"slices"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
)

// A plainTable assigns partitions to members of the usual weight.
type plainTable struct {
	partitions int
	members    []Member // of ring, sorted by name
	ring       *consistent.Consistent
}

func newPlainTable(partitions int) *plainTable {
	return &plainTable{partitions: partitions, ring: consistent.New(nil, consistent.Config{
		Hasher:            hasher{},
		PartitionCount:    partitions,
		ReplicationFactor: UsualWeight * pointsPerTenth,
		Load:              maxLoad,
	})}
}

// assign assigns the partitions to members whose names are sorted and distinct.
func (t *plainTable) assign(members []Member) []string {
	contains := func(in []Member, m Member) bool {
		_, found := slices.BinarySearchFunc(in, m, compareNames)
		return found
	}
	// Members that stay are not removed, so the ring is never empty in between, unless all change.
	for _, m := range t.members {
		if !contains(members, m) {
			t.ring.Remove(m.Name)
		}
	}
	for _, m := range members {
		if !contains(t.members, m) {
			t.ring.Add(ringMember(m.Name))
		}
	}
	t.members = slices.Clone(members)
	owners := make([]string, t.partitions)
	if len(members) > 0 {
		for p := range owners {
			owners[p] = t.ring.GetPartitionOwner(p).String()
		}
	}
	return owners
}

type ringMember string

func (m ringMember) String() string { return string(m) }

type hasher struct{}

func (hasher) Sum64(key []byte) uint64 { return xxhash.Sum64(key) }
