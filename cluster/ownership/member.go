package ownership

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/glotpod/ident/cluster/partition"
)

// An Incarnation tells the lives of one name apart. Each connection to the
// broker is a life of its own, since the broker ends what belongs to a
// connection together with it.
type Incarnation struct {
	Start   int64 // of the process: a later run under the same name has a greater one
	Session int64 // counts the process's connections to the broker
}

// Compare orders incarnations of one name: the greater one supersedes the
// others.
func (i Incarnation) Compare(other Incarnation) int {
	return cmp.Or(cmp.Compare(i.Start, other.Start), cmp.Compare(i.Session, other.Session))
}

// A Member is one incarnation of one name. The ring knows names, everything
// else knows members.
type Member struct {
	Name        string
	Incarnation Incarnation
}

// String returns name/start.session.
func (m Member) String() string {
	return fmt.Sprintf("%s/%d.%d", m.Name, m.Incarnation.Start, m.Incarnation.Session)
}

// A State is how far an instance has come.
//
//	absent ⇄ joining → ready ⇄ draining
//	              ╲       ↓     ╱
//	               ╲──▶ leaving ◀──▶ left
//
// Only ready members count in the ring. One that drains or leaves still serves
// each partition until that has been handed over.
type State uint8

const (
	Absent   State = iota // not connected; of another member: known by the epoch table alone
	Joining               // listens who else is there
	Ready                 // counts in the ring
	Draining              // stays, but gives up its partitions and takes none
	Leaving               // gives up its partitions in order to end
	Left                  // has ended well
	Stopped               // must end, see [Stop]
)

var stateNames = [...]string{"absent", "joining", "ready", "draining", "leaving", "left", "stopped"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// established reports whether a member in this state has been let in, so that
// whoever comes later has to agree with it.
func (s State) established() bool {
	return s == Ready || s == Draining || s == Leaving
}

// Parameters are what all members have to agree on.
type Parameters struct {
	Partitions int
	Table      int    // the TableVersion of the program
	QueueType  string // of the partitions' queues
}

// differences says where theirs are other than ours, "" if nowhere.
func (ours Parameters) differences(theirs Parameters) string {
	var found []string
	differ := func(what string, our, their any) {
		if our != their {
			found = append(found, fmt.Sprintf("%s: %v here, %v there", what, our, their))
		}
	}
	differ("partitions", ours.Partitions, theirs.Partitions)
	differ("table version", ours.Table, theirs.Table)
	differ("queue type", ours.QueueType, theirs.QueueType)
	return strings.Join(found, "; ")
}

// A HeldLease is a lease together with its holder. The lease lasts until the epoch
// table has a greater epoch for the partition, or marks this epoch as released.
type HeldLease struct {
	partition.Lease
	Holder Member
}

// A Row is the epoch table's row of one partition.
type Row struct {
	HeldLease
	Released bool // no member holds the partition; also true if no member ever held it
}

// A Message is what members tell one another, all of them at once or one alone. One
// to all is sent every Config.Heartbeat, and early when there is news.
//
// State and Wants are what holds for its sender at present: of two messages the
// one with the greater Seq counts. Released, Taken and Gone are facts: they stay true
// however late they arrive. So is Granted, but what was granted may be over meanwhile.
type Message struct {
	From       Member
	Seq        int64 // rises with each message of From
	State      State
	Parameters Parameters

	Wants    []HeldLease // which leases the sender asks their holders to give up
	Granted  []HeldLease // which leases the sender has won for their holders, in the place of its own
	Released []HeldLease // which leases have ended, so that the partition is free
	Taken    []HeldLease // which leases were won from a holder that did not release
	Gone     []Member    // who is no more, by the broker's word
}
