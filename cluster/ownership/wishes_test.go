package ownership

import "testing"

func TestWantedLeases(t *testing.T) {
	for name, test := range map[string]struct {
		holders []Member // of each partition; zero: the partition does not wait for a holder
		want    []int    // partitions
		more    bool
	}{
		"none":          {[]Member{{}, {}}, nil, false},
		"all":           {[]Member{alice, {}, carol}, []int{0, 2}, false},
		"window":        {[]Member{alice, alice, alice, alice, alice}, []int{0, 1, 2, 3}, true},
		"equal shares":  {[]Member{alice, alice, alice, alice, carol}, []int{0, 1, 4}, true},
		"shares filled": {[]Member{carol, carol, alice, alice, {}}, []int{0, 1, 2, 3}, false},
	} {
		states := make([]partitionState, len(test.holders))
		for p, holder := range test.holders {
			states[p] = partitionState{phase: waiting, epoch: int64(p) + 10, holder: holder}
		}
		got, more := wantedLeases(states, 4)
		var want []HeldLease
		for _, p := range test.want {
			want = append(want, heldLease(p, int64(p)+10, test.holders[p]))
		}
		expect(t, got, want...)
		if more != test.more {
			t.Errorf("%s: there are more: %v", name, more)
		}
	}
}
