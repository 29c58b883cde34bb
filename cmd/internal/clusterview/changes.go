package clusterview

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/membership"
)

// A change is a difference between two consecutive views.
type change struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// changesSince returns the changes since the previous view. There are none if previous
// is nil.
func (v *view) changesSince(previous *view) (changes []change) {
	if previous == nil {
		return nil
	}
	add := func(format string, args ...any) {
		changes = append(changes, change{v.At, fmt.Sprintf(format, args...)})
	}
	before, now := previous.membersByName(), v.membersByName()
	for _, name := range sortedUnion(before, now) {
		was, is := before[name], now[name]
		switch {
		case was == nil && slices.Contains(previous.Missing, name):
			add("%s replies again and is %s", name, is.State)
		case was == nil:
			add("%s has joined and is %s", name, is.State)
		case is == nil && slices.Contains(v.Missing, name):
			add("%s does not reply", name)
		case is == nil:
			add("%s is gone", name)
		case was.Start != is.Start:
			add("%s has restarted and is %s", name, is.State)
		case was.State != is.State:
			add("%s is %s", name, is.State)
		}
	}
	moves := make(map[[2]string][]int)
	for p := range min(len(v.Partitions), len(previous.Partitions)) {
		if was, is := previous.Partitions[p].Owner, v.Partitions[p].Owner; was != is {
			moves[[2]string{was, is}] = append(moves[[2]string{was, is}], p)
		}
	}
	pairs := slices.SortedFunc(maps.Keys(moves), func(a, b [2]string) int {
		return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
	})
	for _, pair := range pairs {
		add("%s moved from %s to %s: %s", plural(len(moves[pair]), "partition"), ownerText(pair[0]), ownerText(pair[1]), ranges(moves[pair]))
	}
	return changes
}

func (v *view) membersByName() map[string]*membership.Report {
	byName := make(map[string]*membership.Report, len(v.Members))
	for i := range v.Members {
		byName[v.Members[i].Name] = &v.Members[i]
	}
	return byName
}

func sortedUnion(a, b map[string]*membership.Report) []string {
	names := maps.Clone(a)
	maps.Copy(names, b)
	return slices.Sorted(maps.Keys(names))
}

func ownerText(name string) string { return cmp.Or(name, "no owner") }

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
