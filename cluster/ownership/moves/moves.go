// Package moves has the partitions that an operator has moved to a member, away from the one
// that the hash ring assigns them to.
//
// Each member announces the moves to itself with its heartbeats, and is the only one to
// change them. So a move ends with the process of that member, and has no effect while the member
// is not in the ring. If two members announce a move of the same partition, the later one counts for
// all; the member with the earlier one drops it when it hears of the later one.
package moves

import (
	"cmp"
	"slices"
)

// A Move assigns a partition to the member that announces it.
type Move struct {
	Partition int
	Version   int64 // greater than that of each earlier move of the partition
}

// A List has the moves to one member, sorted by partition. It is never changed.
type List []Move

// Max is the most moves to one member. All are part of each of its heartbeats.
const Max = 64

func (l List) find(partition int) (at int, found bool) {
	return slices.BinarySearchFunc(l, partition, func(m Move, p int) int { return cmp.Compare(m.Partition, p) })
}

// Version returns the version of the move of a partition, or 0 if there is none.
func (l List) Version(partition int) int64 {
	if at, found := l.find(partition); found {
		return l[at].Version
	}
	return 0
}

// With returns the list with a move, which replaces an earlier one of the same partition. If
// there are Max moves already, it returns the list as it is.
func (l List) With(m Move) List {
	without := l.Without(m.Partition)
	if len(without) >= Max {
		return l
	}
	at, _ := without.find(m.Partition)
	return slices.Insert(slices.Clone(without), at, m)
}

// Without returns the list without the move of a partition.
func (l List) Without(partition int) List {
	at, found := l.find(partition)
	if !found {
		return l
	}
	return slices.Delete(slices.Clone(l), at, at+1)
}

// An Announcement has the moves to a member.
type Announcement struct {
	Member string
	Moves  List
}

// LostTo returns the list without the moves that another member's later ones replace. member is the one
// that the list is of.
func (l List) LostTo(other Announcement, member string) List {
	for _, m := range other.Moves {
		if mine := l.Version(m.Partition); mine != 0 && isLater(m.Version, other.Member, mine, member) {
			l = l.Without(m.Partition)
		}
	}
	return l
}

// isLater reports whether the first of two moves of a partition counts. Of two with one version,
// that to the member with the greater name does.
func isLater(version int64, member string, otherVersion int64, other string) bool {
	return cmp.Or(cmp.Compare(version, otherVersion), cmp.Compare(member, other)) > 0
}

// Apply changes the owners, by partition, to those that all announcements result in.
func Apply(owners []string, all []Announcement) {
	latest := make(map[int]Announcement) // by partition; has the one move that counts
	for _, a := range all {
		for n, m := range a.Moves {
			known, moved := latest[m.Partition]
			if !moved || isLater(m.Version, a.Member, known.Moves[0].Version, known.Member) {
				latest[m.Partition] = Announcement{a.Member, a.Moves[n : n+1]}
			}
		}
	}
	for p, a := range latest {
		if 0 <= p && p < len(owners) {
			owners[p] = a.Member
		}
	}
}
