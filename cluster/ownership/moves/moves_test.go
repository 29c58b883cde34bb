package moves

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestList(t *testing.T) {
	var l List
	for _, p := range []int{5, 1, 3, 5} {
		before := slices.Clone(l)
		next := l.With(Move{p, l.Version(p) + 1})
		if !slices.Equal(l, before) {
			t.Errorf("a list was changed to %v", l)
		}
		l = next
	}
	if want := (List{{1, 1}, {3, 1}, {5, 2}}); !slices.Equal(l, want) {
		t.Errorf("got %v, want %v", l, want)
	}
	if got, want := l.Without(3).Without(2), (List{{1, 1}, {5, 2}}); !slices.Equal(got, want) || len(l) != 3 {
		t.Errorf("got %v, want %v", got, want)
	}
	for p := range 2 * Max {
		l = l.With(Move{p, 1})
	}
	if len(l) != Max || !slices.IsSortedFunc(l, func(a, b Move) int { return a.Partition - b.Partition }) {
		t.Errorf("%d moves: %v", len(l), l)
	}
}

// Whatever moves are made at once: when all members have heard of each other, each partition
// is moved to one member at most, that with the latest move, and all agree about that in between.
func TestMovesConverge(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		names := []string{"a", "b", "c"}
		lists := make([]List, len(names))
		for range 10 {
			n := random.IntN(len(names))
			lists[n] = lists[n].With(Move{random.IntN(4), 1 + random.Int64N(3)})
		}
		announced := func() (all []Announcement) {
			for n, l := range lists {
				all = append(all, Announcement{names[n], l})
			}
			return all
		}
		owners := make([]string, 4)
		Apply(owners, announced())
		reversed := make([]string, 4)
		all := announced()
		slices.Reverse(all)
		if Apply(reversed, all); !slices.Equal(owners, reversed) {
			t.Fatalf("%v or, in another order, %v for %v", owners, reversed, lists)
		}
		for _, heard := range announced() {
			for n := range lists {
				if names[n] != heard.Member {
					lists[n] = lists[n].LostTo(heard, names[n])
				}
			}
		}
		for p, owner := range owners {
			for n, l := range lists {
				if moved := l.Version(p) != 0; moved != (owner == names[n]) {
					t.Fatalf("partition %d of %q: %s has %v", p, owner, names[n], l)
				}
			}
		}
	}
}

// Moves of partitions that do not exist change nothing.
func TestApplyOutOfRange(t *testing.T) {
	owners := []string{"x", "x"}
	Apply(owners, []Announcement{{"a", List{{-1, 1}, {1, 1}, {2, 1}}}})
	if !slices.Equal(owners, []string{"x", "a"}) {
		t.Errorf("got %v", owners)
	}
}
