package hashring

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// members returns n members with the usual weight.
func members(n int) []Member {
	var all []Member
	for i := range n {
		all = append(all, Member{Name: fmt.Sprintf("ident-%d", i)})
	}
	return all
}

// randomMembers returns up to most members with weights from 0.1 to 10. Most of the weights are
// between a half and two.
func randomMembers(random *rand.Rand, most int) []Member {
	all := members(1 + random.IntN(most))
	for n := range all {
		all[n].Weight = randomWeight(random)
	}
	return all
}

func randomWeight(random *rand.Rand) int {
	if random.IntN(4) == 0 {
		return 1 + random.IntN(100)
	}
	return 5 + random.IntN(16)
}

// loads returns how many partitions each owner has.
func loads(owners []string) map[string]int {
	load := make(map[string]int)
	for _, owner := range owners {
		load[owner]++
	}
	return load
}

// shareOf returns how many partitions a member should have.
func shareOf(m Member, all []Member, partitions int) float64 {
	total := 0
	for _, other := range all {
		total += other.weight()
	}
	return float64(partitions) * float64(m.weight()) / float64(total)
}

func TestTable(t *testing.T) {
	t.Run("same_everywhere", testTableSameEverywhere)
	t.Run("no_history", testTableNoHistory)
	t.Run("moves_little", testTableMovesLittle)
	t.Run("weights_move_little", testTableWeightsMoveLittle)
	t.Run("without_weights", testTableWithoutWeights)
}

// Without weights, the library and the assignment by weight are the same. So the first weight that
// differs moves few partitions.
func testTableWithoutWeights(t *testing.T) {
	for _, partitions := range []int{1, 2, 7, 64, 1024} {
		plain, weighted := newPlainTable(partitions), newWeightedTable(partitions)
		for _, n := range []int{1, 30, 2, 100, 3, 10, 0, 5} {
			all := members(n)
			slices.SortFunc(all, compareNames)
			if p, w := plain.assign(all), weighted.assign(all); !slices.Equal(p, w) {
				t.Fatalf("%d partitions, %d members: %v and %v", partitions, n, p, w)
			}
		}
	}
}

// Different builds have to agree on the table. If this fails, either undo the change or
// raise Version, so that the two builds do not work together.
func testTableSameEverywhere(t *testing.T) {
	const version = 1
	for name, test := range map[string]struct {
		weight func(n int) int
		want   uint64
	}{
		"none":   {func(int) int { return 0 }, 0xbd2e438d5070daf2},
		"usual":  {func(int) int { return UsualWeight }, 0xbd2e438d5070daf2},
		"others": {func(n int) int { return 1 + 7*n%100 }, 0x54f8259f1ad59094},
	} {
		sum := fnv.New64a()
		for _, partitions := range []int{1, 2, 7, 64, 1024} {
			for _, n := range []int{1, 2, 3, 10, 30} {
				all := members(n)
				for i := range all {
					all[i].Weight = test.weight(i)
				}
				fmt.Fprintln(sum, partitions, n, Assign(all, partitions))
			}
		}
		if got := sum.Sum64(); Version != version || got != test.want {
			t.Errorf("weights: %s: table version %d has the sum %#x; version %d had %#x", name, Version, got, version, test.want)
		}
	}
}

func TestAssign(t *testing.T) {
	t.Run("bounded", testAssignBounded)
	t.Run("in_proportion", testAssignInProportion)
	t.Run("arguments", testAssignArguments)
}

// Any number of members can share any number of partitions: each partition has an
// owner, and no owner has more than a quarter above its share, rounded up.
func testAssignBounded(t *testing.T) {
	check := func(all []Member, partitions int) {
		owners := Assign(all, partitions)
		load := loads(owners)
		for _, m := range all {
			if most := math.Ceil(shareOf(m, all, partitions)*1.25 + 1e-9); float64(load[m.Name]) > most {
				t.Errorf("%d partitions, %v: %q has %d, its share is %.1f", partitions, all, m.Name, load[m.Name], shareOf(m, all, partitions))
			}
			delete(load, m.Name)
		}
		if len(owners) != partitions || len(load) > 0 {
			t.Errorf("%d owners for %d partitions; %v are no members", len(owners), partitions, load)
		}
	}
	random := rand.New(rand.NewPCG(1, 1))
	for _, partitions := range []int{1, 2, 10, 64, 271} {
		for _, n := range []int{1, 2, 3, 4, 7, 30} {
			check(members(n), partitions)
		}
		for range 50 {
			check(randomMembers(random, 30), partitions)
		}
	}
}

// A member has three fifths of its share at least. If that is few partitions, it has a third at least, less
// two partitions.
func testAssignInProportion(t *testing.T) {
	const partitions = 1024
	random := rand.New(rand.NewPCG(2, 2))
	least := math.Inf(1)
	for range 300 {
		all := randomMembers(random, 10)
		load := loads(Assign(all, partitions))
		for _, m := range all {
			share := shareOf(m, all, partitions)
			if share >= 50 {
				least = min(least, float64(load[m.Name])/share)
			}
			if float64(load[m.Name]) < share/3-2 {
				t.Errorf("%q has %d, its share is %.1f: %v", m.Name, load[m.Name], share, all)
			}
		}
	}
	if t.Logf("at least %.2f of its share", least); least < 0.6 {
		t.Error("a member has too little")
	}
}

func testAssignArguments(t *testing.T) {
	if got := Assign(nil, 3); !slices.Equal(got, []string{"", "", ""}) {
		t.Errorf("without members: %q", got)
	}
	if got := Assign(members(2), 0); got != nil {
		t.Errorf("without partitions: %q", got)
	}
	a, b, c := Member{"a", 5}, Member{"b", 0}, Member{"c", 20}
	given := []Member{c, a, b, a, c}
	if got, want := Assign(given, 64), Assign([]Member{a, b, c}, 64); !slices.Equal(got, want) {
		t.Error("order and repetitions matter")
	}
	if !slices.Equal(given, []Member{c, a, b, a, c}) {
		t.Error("the arguments are changed")
	}
}

// A table that has had other members, and other weights, assigns like a new one.
func testTableNoHistory(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	const partitions = 100
	table, all := NewTable(partitions), members(12)
	slices.SortFunc(all, compareNames)
	for range 50 {
		var some []Member
		for _, m := range all {
			if random.IntN(2) == 0 {
				m.Weight = random.IntN(3) * UsualWeight / 2
				some = append(some, m)
			}
		}
		if got, want := table.Assign(some), Assign(some, partitions); !slices.Equal(got, want) {
			t.Fatalf("%v: %v, not %v", some, got, want)
		}
	}
}

// moved returns how many partitions have another owner, and how many of these had the
// owner from or have the owner to.
func moved(before, after []string, name string) (all, expected int) {
	for p := range before {
		if before[p] != after[p] {
			all++
			if before[p] == name || after[p] == name {
				expected++
			}
		}
	}
	return all, expected
}

// A member that joins or leaves moves about its share of the partitions, and few
// between the other members.
func testTableMovesLittle(t *testing.T) {
	const partitions = 1024
	for _, n := range []int{2, 3, 5, 10, 30} {
		var changed, ofIt, total int
		before := Assign(members(n), partitions)
		for left := range min(n, 5) {
			others := slices.Delete(members(n), left, left+1)
			all, expected := moved(before, Assign(others, partitions), members(n)[left].Name)
			changed, ofIt, total = changed+all, ofIt+expected, total+partitions
		}
		ideal, share := 1/float64(n), float64(changed)/float64(total)
		t.Logf("%3d members: one of them leaves, and %4.1f %% move; the ideal is %4.1f %%; %.1f %% between others",
			n, 100*share, 100*ideal, 100*float64(changed-ofIt)/float64(total))
		if share > 1.25*ideal+0.03 {
			t.Errorf("%d members: %.1f %% of the partitions move", n, 100*share)
		}
	}
}

// A member that joins with any weight, or whose weight changes, moves little more than the
// difference between its shares.
func testTableWeightsMoveLittle(t *testing.T) {
	const partitions = 1024
	random := rand.New(rand.NewPCG(3, 3))
	for name, change := range map[string]func(all []Member) []Member{
		"join": func(all []Member) []Member { return all[:len(all)-1] },
		"weight": func(all []Member) []Member {
			other := slices.Clone(all)
			other[len(all)-1].Weight = randomWeight(random)
			return other
		},
	} {
		var sum, ideals, most float64
		for range 100 {
			after := randomMembers(random, 10)
			if len(after) == 1 {
				continue
			}
			before := change(after)
			it := after[len(after)-1]
			ideal := shareOf(it, after, partitions)
			if len(before) == len(after) {
				ideal = math.Abs(ideal - shareOf(before[len(before)-1], before, partitions))
			}
			all, _ := moved(Assign(before, partitions), Assign(after, partitions), it.Name)
			sum, ideals = sum+float64(all), ideals+ideal
			most = max(most, (float64(all)-ideal)/partitions)
		}
		t.Logf("%s: %.0f %% of the ideal number move; at most %.1f %% of the partitions more", name, 100*sum/ideals, 100*most)
		if sum > 1.4*ideals || most > 0.15 {
			t.Errorf("%s: too many partitions move", name)
		}
	}
}

func BenchmarkTable(b *testing.B) {
	for _, n := range []int{3, 10, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			all := members(n)
			slices.SortFunc(all, compareNames)
			table := NewTable(1024)
			table.Assign(all)
			for b.Loop() {
				table.Assign(all[1:])
				table.Assign(all)
			}
		})
	}
}
