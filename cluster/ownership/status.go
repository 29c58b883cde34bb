package ownership

import (
	"slices"
	"time"
)

// A Status is a copy of what an instance knows, for people and for metrics.
type Status struct {
	Self       Member
	State      State
	Ring       []string          // the names that count, in order
	Members    []MemberStatus    // the others, in the order of their names
	Partitions []PartitionStatus // by partition
}

// A MemberStatus is what is known of another member.
type MemberStatus struct {
	Member
	State     State
	LastHeard time.Time // the latest message
	Alive     bool
}

// A PartitionStatus is what an instance knows of a partition.
type PartitionStatus struct {
	AssignedTo string // by the ring; "" is nobody
	Phase      string // here
	Epoch      int64  // of the lease that is held here, else 0
}

// Settled reports whether the instance owns each partition that the ring gives to
// it. One that has just become ready is not settled before the ring counts it; one
// that is not to own any is.
func (s Status) Settled() bool {
	if s.State == Ready && !containsSorted(s.Ring, s.Self.Name) {
		return false
	}
	for _, p := range s.Partitions {
		if p.AssignedTo == s.Self.Name && p.Phase != owned.String() {
			return false
		}
	}
	return true
}

// Status returns how things are.
func (c *Core) Status() Status {
	s := Status{Self: c.self, State: c.state, Ring: slices.Clone(c.ring)}
	for _, name := range c.memberNames() {
		m := c.members[name]
		s.Members = append(s.Members, MemberStatus{Member: m.Member, State: m.state, LastHeard: m.lastHeard, Alive: m.isAlive()})
	}
	for p := range c.partitions {
		part := &c.partitions[p]
		status := PartitionStatus{AssignedTo: c.owners[p], Phase: part.phase.String()}
		if part.phase.hasLease() {
			status.Epoch = part.epoch
		}
		s.Partitions = append(s.Partitions, status)
	}
	return s
}
