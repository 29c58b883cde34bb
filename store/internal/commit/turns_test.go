package commit

import (
	"slices"
	"testing"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/commitstate"
)

func TestTurns(t *testing.T) {
	under := func(number int, epoch, user int64) *pending {
		p := writesTo(t, user, 0)
		p.lease = partition.Lease{Partition: number, Epoch: epoch}
		return p
	}
	newTurns := func() *turns { return &turns{partitions: make(map[int]*turn)} }

	t.Run("writes of a busy partition wait, others do not", func(t *testing.T) {
		all := newTurns()
		first, second := under(1, 1, 1), under(1, 1, 2)
		taken := all.take([]*pending{first, second})
		if !slices.Equal(taken, []*pending{first, second}) {
			t.Fatal("the writes of one group do not share the turn")
		}
		waits, other := under(1, 1, 3), under(2, 1, 4)
		if kept := all.take([]*pending{waits, other}); !slices.Equal(kept, []*pending{other}) {
			t.Fatalf("%d writes have a turn", len(kept))
		}
		if waiting := all.give(taken); !slices.Equal(waiting, []*pending{waits}) {
			t.Fatalf("%d writes have waited", len(waiting))
		}
		if kept := all.take([]*pending{waits}); len(kept) != 1 {
			t.Error("a turn that was given back is not free")
		}
	})

	t.Run("a lease begins at its first position, which is not certain", func(t *testing.T) {
		all, p := newTurns(), under(1, 7, 1)
		all.take([]*pending{p})
		if p.turn.next != changelog.FirstPosition(7) || !isNextUnknown([]*pending{p}) {
			t.Errorf("the next position is %d, unknown %t", p.turn.next, p.turn.nextUnknown)
		}
	})

	t.Run("a later lease takes the place of an earlier one", func(t *testing.T) {
		all, early, late := newTurns(), under(1, 1, 1), under(1, 2, 2)
		all.give(all.take([]*pending{early}))
		all.take([]*pending{late})
		if all.partitions[1].lease != late.lease {
			t.Error("the turn is of the earlier lease")
		}
	})

	t.Run("a write of an ended lease leaves the positions of the valid one", func(t *testing.T) {
		all, valid, ended := newTurns(), under(1, 2, 2), under(1, 1, 1)
		all.give(all.take([]*pending{valid}))
		own := all.partitions[1]
		own.next += 5
		want := own.next

		group := all.take([]*pending{ended, valid})
		new(Committer).newAttempt(group, commitstate.LeftOut, changelog.Tables{})
		if len(group) != 2 || ended.turn == valid.turn || valid.turn != own {
			t.Fatal("both leases have the same turn")
		}
		ended.turn.planned += 3
		valid.turn.planned++
		usePlanned(group)
		if own.next != want+1 {
			t.Errorf("the next position is %d, want %d", own.next, want+1)
		}
		all.give(group)
		if all.partitions[1] != own {
			t.Error("the turn of the ended lease is kept")
		}
	})

	t.Run("a write that is left out does not set positions back", func(t *testing.T) {
		all, first, same, other := newTurns(), under(1, 1, 1), under(1, 1, 1), under(2, 1, 1)
		all.give(all.take([]*pending{other}))
		all.partitions[2].next += 4
		group := all.take([]*pending{first, same, other}) // the last two are to the user of the first
		want := other.turn.next
		new(Committer).newAttempt(group, commitstate.LeftOut, changelog.Tables{})
		usePlanned(group)
		if other.inAttempt != 0 || other.turn.next != want {
			t.Errorf("the next position is %d, want %d", other.turn.next, want)
		}
	})
}
