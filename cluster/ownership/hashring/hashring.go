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
package hashring

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
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
	hashes  []uint64 // by partition
	members []Member // of the points, sorted by name
	points  []point  // sorted
}

// A point is a place of a member on the ring.
type point struct {
	hash uint64
	name string
}

func comparePoints(a, b point) int {
	switch {
	case a.hash < b.hash:
		return -1
	case a.hash > b.hash:
		return 1
	}
	return strings.Compare(a.name, b.name)
}

// NewTable returns a table without members.
func NewTable(partitions int) *Table {
	t := &Table{hashes: make([]uint64, partitions)}
	for p := range t.hashes {
		t.hashes[p] = xxhash.Sum64(binary.LittleEndian.AppendUint64(nil, uint64(p)))
	}
	return t
}

// Assign is like the function [Assign] for members whose names are sorted and distinct.
func (t *Table) Assign(members []Member) []string {
	t.update(members)
	owners := make([]string, len(t.hashes))
	if len(members) == 0 {
		return owners
	}
	room := t.rooms()
	for p, hash := range t.hashes {
		at, _ := slices.BinarySearchFunc(t.points, hash, func(p point, hash uint64) int {
			return comparePoints(p, point{hash: hash})
		})
		for ; ; at++ {
			name := t.points[at%len(t.points)].name
			if room[name] > 0 {
				room[name]--
				owners[p] = name
				break
			}
		}
	}
	return owners
}

// rooms returns how many partitions each member takes at most: together they have room for all.
func (t *Table) rooms() map[string]int {
	total := 0
	for _, m := range t.members {
		total += m.weight()
	}
	room := make(map[string]int, len(t.members))
	for _, m := range t.members {
		shares := float64(total) / float64(m.weight()) // the number of members, if all weights are equal
		room[m.Name] = int(math.Ceil(float64(len(t.hashes)) / shares * maxLoad))
	}
	return room
}

// update changes the points to those of the given members.
func (t *Table) update(members []Member) {
	stays := func(m Member, in []Member) bool {
		at, found := slices.BinarySearchFunc(in, m, compareNames)
		return found && in[at].weight() == m.weight()
	}
	gone := make(map[string]bool)
	for _, m := range t.members {
		if !stays(m, members) {
			gone[m.Name] = true
		}
	}
	if len(gone) > 0 {
		t.points = slices.DeleteFunc(t.points, func(p point) bool { return gone[p.name] })
	}
	before := len(t.points)
	for _, m := range members {
		if !stays(m, t.members) {
			t.points = appendPoints(t.points, m)
		}
	}
	if len(t.points) > before {
		slices.SortFunc(t.points, comparePoints)
	}
	t.members = slices.Clone(members)
}

// appendPoints appends the points of a member.
func appendPoints(points []point, m Member) []point {
	var key []byte
	for n := range m.weight() * pointsPerTenth {
		key = append(strconv.AppendInt(key[:0], int64(n), 10), ':')
		key = append(key, m.Name...)
		points = append(points, point{xxhash.Sum64(key), m.Name})
	}
	return points
}
