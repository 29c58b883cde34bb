package ownership

import (
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/ownership/moves"
)

// A Status is a copy of the state of a core, for people and for metrics.
type Status struct {
	Self       Member
	State      State
	Ring       []string          // the names of the ready members, sorted
	Weight     int               // of this instance, in tenths
	Moves      moves.List        // to this instance
	Members    []MemberStatus    // the other members, sorted by name
	Partitions []PartitionStatus // by partition
	Suspicions Suspicions
}

// A MemberStatus is what the instance knows about another member.
type MemberStatus struct {
	Member
	State     State
	LastHeard time.Time // when the latest message came
	Alive     bool
}

// A PartitionStatus is what the instance knows about a partition.
type PartitionStatus struct {
	AssignedTo string // the owner by the ring; "" if there is none
	Phase      string // in this instance; PhaseOwned while it serves the partition
	Epoch      int64  // of the lease that this instance holds; 0 if it holds none
}

// PhaseOwned is the phase of a partition that an instance serves.
const PhaseOwned = "owned"

// Settled reports whether the instance owns each partition that the ring assigns to it.
// An instance that has just become ready is not settled before it is in the ring. An
// instance without assigned partitions is settled.
func (s Status) Settled() bool {
	if s.State == Ready && !containsSorted(s.Ring, s.Self.Name) {
		return false
	}
	for _, p := range s.Partitions {
		if p.AssignedTo == s.Self.Name && p.Phase != PhaseOwned {
			return false
		}
	}
	return true
}

// Status returns a copy of the state.
func (c *Core) Status() Status {
	s := Status{Self: c.self, State: c.state, Ring: slices.Clone(c.ring.names), Weight: c.cfg.Weight, Moves: c.moves, Suspicions: c.members.suspicions}
	for _, name := range c.members.names() {
		m := c.members.find(name)
		s.Members = append(s.Members, MemberStatus{Member: m.Member, State: m.state, LastHeard: m.lastHeard, Alive: m.isAlive()})
	}
	for p := range c.partitions.states {
		part := &c.partitions.states[p]
		status := PartitionStatus{AssignedTo: c.ring.owners[p], Phase: part.phase.String()}
		if part.phase.hasLease() {
			status.Epoch = part.epoch
		}
		s.Partitions = append(s.Partitions, status)
	}
	return s
}
