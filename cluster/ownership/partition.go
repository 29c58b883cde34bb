package ownership

import (
	"fmt"
	"slices"
	"time"
)

// A phase is how far this instance is with one partition.
//
//	     ours by the ring             won             consuming
//	idle ────────────────▶ claiming ───────▶ starting ─────────▶ owned
//	▲  ▲                    │    ▲              │                │   │
//	│  │    refused, failed │    │ again        │           lost │   │ its new owner
//	│  │                    ▼    │              │                │   ▼ asks for it
//	│  ╰─────────────────── waiting ◀───────────┴────────────────┴─ handing over
//	│       not ours                   lost                          │
//	╰────────────────────────────────────────────────────────────────╯
//	                            handed over
//
// A waiting partition is starting when its holder has granted it. It is claimed again
// when its holder has released it or is no more, or, where nobody is known to hold it,
// after a while. What was claimed in vain, or lost, and is not ours by the ring any
// more, becomes idle instead of waiting. A lost connection leads from each phase to
// idle.
type phase uint8

const (
	idle        phase = iota // not ours, or not yet
	waiting                  // ours by the ring; another holds it, or we try again later
	claiming                 // the epoch table has been asked
	starting                 // held; the consumer is being started
	owned                    // held and served
	handingOver              // held; the consumer is being ended
)

var phaseNames = [...]string{"idle", "waiting", "claiming", "starting", "owned", "handing over"}

func (f phase) String() string { return phaseNames[f] }

// held reports whether a channel may be open and work may be under way.
func (f phase) hasLease() bool { return f >= starting }

// next are the phases that may follow each.
var allowedNext = [...][]phase{
	idle:        {claiming},
	waiting:     {claiming, starting, idle},
	claiming:    {claiming, starting, waiting, idle},
	starting:    {owned, waiting, idle},
	owned:       {handingOver, waiting, idle},
	handingOver: {idle, waiting},
}

// A partitionState is what this instance knows of one partition.
type partitionState struct {
	phase phase
	since time.Time // in this phase

	epoch   int64     // held: ours. waiting for a holder: the holder's
	holder  Member    // waiting: who is asked to give it up; zero if nobody is
	retryAt time.Time // waiting for nobody: when to try again
	attempt uint64    // claiming: what the answer will name
	deposed Member    // claiming: who loses it if we win; zero if nobody does

	setbacks int // since it was last served for long
}

// asks reports whether the partition waits for its holder to give it up.
func (part *partitionState) waitsForHolder() bool {
	return part.phase == waiting && part.holder.Name != ""
}

// transition is the one place where a partition changes its phase.
//
// Invariant: busy is the number of partitions that are not idle, and moving are those
// that are being handed over.
func (c *Core) transition(p int, to phase) {
	part := &c.partitions[p]
	from := part.phase
	if from == idle && to == idle {
		return
	}
	if !slices.Contains(allowedNext[from], to) {
		panic(fmt.Sprintf("ownership: partition %d goes from %v to %v", p, from, to))
	}
	switch {
	case from == idle:
		c.active++
	case to == idle:
		c.active--
	}
	if from == handingOver {
		c.handovers = slices.DeleteFunc(c.handovers, func(q int) bool { return q == p })
	}
	if to == handingOver {
		c.handovers = append(c.handovers, p)
	}
	part.phase, part.since = to, c.now
}
