package hashring

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// A weightedTable assigns partitions to members of any weights.
type weightedTable struct {
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

func newWeightedTable(partitions int) *weightedTable {
	t := &weightedTable{hashes: make([]uint64, partitions)}
	for p := range t.hashes {
		t.hashes[p] = xxhash.Sum64(binary.LittleEndian.AppendUint64(nil, uint64(p)))
	}
	return t
}

// assign assigns the partitions to members whose names are sorted and distinct.
func (t *weightedTable) assign(members []Member) []string {
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
func (t *weightedTable) rooms() map[string]int {
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
func (t *weightedTable) update(members []Member) {
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
