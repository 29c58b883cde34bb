// Package hashring assigns partitions to weighted members, by consistent hashing with bounded
// loads (Mirrokni, Thorup and Zadimoghaddam, 2016). The assignment depends on the members
// alone. Members that see the same members agree on it.
//
// # Design decisions and what they cost
//
//   - Each member has points on the ring in proportion to its weight, and takes at most a quarter
//     more than its share. So weights move few partitions when they change. Cost: a member may
//     have fewer than its share, down to three fifths of it. Why not exact shares
//     (Maglev, largest remainders): each change would move partitions between members that stay as they are.
//   - A weight has steps of a tenth, and each step is ten points. So the points of a member with
//     the usual weight are those that it has without weights.
//   - While all members have the usual weight, package buraksezer/consistent computes the assignment. It knows
//     no weights: several members of it for one of ours would have loads of their own, too small for
//     a bound. So the assignment by weight is computed here, in such a way that both are the same without weights.
package hashring

import (
	"slices"
	"strings"
)

// Version is the version of [Assign]. Members with different versions do not work
// together. It has to be raised with each change that assigns even one partition
// differently.
const Version = 1

const (
	// UsualWeight is the weight of a member that says nothing else: 1, in tenths.
	UsualWeight = 10

	// pointsPerTenth is how many points a member has on the ring for each tenth of its weight.
	pointsPerTenth = 10

	// maxLoad bounds the partitions of a member, as a multiple of its share.
	maxLoad = 1.25
)

// A Member takes partitions.
type Member struct {
	Name   string
	Weight int // in tenths; 0 is UsualWeight
}

// weight returns the weight in tenths.
func (m Member) weight() int {
	if m.Weight <= 0 {
		return UsualWeight
	}
	return m.Weight
}

// Assign returns the name of the member that owns each partition. The result depends on
// the arguments alone, and not on order or repetitions in members. The share of a member is its weight
// divided by the sum of all. No member has more than its share plus a quarter, rounded up.
// If there are more members than partitions, some have none. Without members, each owner is "".
func Assign(members []Member, partitions int) []string {
	if partitions < 1 {
		return nil
	}
	members = slices.Clone(members)
	slices.SortFunc(members, compareNames)
	return NewTable(partitions).Assign(slices.CompactFunc(members, func(a, b Member) bool { return a.Name == b.Name }))
}

func compareNames(a, b Member) int { return strings.Compare(a.Name, b.Name) }

// A Table is a hash ring that is updated by the members that join, leave, or change their weight. With
// hundreds of members, an update costs less than a new ring. It is not safe for concurrent use.
type Table struct {
	plain    *plainTable
	weighted *weightedTable
}

// NewTable returns a table without members.
func NewTable(partitions int) *Table {
	return &Table{newPlainTable(partitions), newWeightedTable(partitions)}
}

// Assign is like the function [Assign] for members whose names are sorted and distinct.
func (t *Table) Assign(members []Member) []string {
	if slices.ContainsFunc(members, func(m Member) bool { return m.weight() != UsualWeight }) {
		return t.weighted.assign(members)
	}
	return t.plain.assign(members)
}
