package ownership

import (
	"reflect"
	"testing"
	"time"
)

func TestStatus(t *testing.T) {
	t.Run("copy", testStatusCopy)
	t.Run("newcomer_settled_last", testStatusNewcomerSettledLast)
}

// Status returns all members and partitions.
func testStatusCopy(t *testing.T) {
	b := newOwner(t, 1)
	b.hear(alice, 1, Draining)
	heard := b.now
	b.wait(time.Second / 2)
	got := b.core.Status()
	want := Status{
		Self:       b.core.self,
		State:      Ready,
		Ring:       []string{"b"},
		Weight:     10,
		Members:    []MemberStatus{{Member: alice, State: Draining, LastHeard: heard, Alive: true}},
		Partitions: []PartitionStatus{{AssignedTo: "b", Phase: "owned", Epoch: 1}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A rolling update waits for an instance to be settled before it stops the next one. So
// an instance is not settled while partitions still move to it.
func testStatusNewcomerSettledLast(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name, cfg.Start, cfg.Partitions = "b", 10, 8
	core, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, core: core}
	b.step(Connected{Session: 1})
	b.hear(alice, 1, Ready)
	for core.state != Ready {
		b.wait(cfg.Spacing)
	}
	if status := core.Status(); status.Settled() {
		t.Errorf("settled as soon as ready: %+v", status)
	}
	claims := only[Claim](b.wait(cfg.Debounce))
	if len(claims) == 0 {
		t.Fatal("no partition is to be the newcomer's")
	}
	for _, claim := range claims {
		if core.Status().Settled() {
			t.Errorf("settled without partition %d", claim.Partition)
		}
		b.win(claim, 1)
	}
	if status := core.Status(); !status.Settled() {
		t.Errorf("not settled: %+v", status)
	}
}
