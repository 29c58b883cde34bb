package ownership

import (
	"fmt"
	"strings"
	"time"

	"github.com/glotpod/ident/cluster/ownership/moves"
	"github.com/glotpod/ident/cluster/partition"
)

// An Incarnation distinguishes the lives of one name: see [partition.Incarnation].
type Incarnation = partition.Incarnation

// A Member is one incarnation of one name. The ring uses names; everything else uses
// members.
type Member = partition.Member

// A State is the state of an instance in the cluster.
//
//	absent ⇄ joining → ready ⇄ draining
//	              ╲       ↓     ╱
//	               ╲──▶ leaving ◀──▶ left
//
// Only ready members are in the ring. An instance that drains or leaves serves each of its
// partitions until that is handed over.
type State uint8

const (
	Absent   State = iota // not connected; of another member: known from the epoch table alone
	Joining               // listens for the other members
	Ready                 // is in the ring
	Draining              // hands its partitions over, claims none, and stays
	Leaving               // hands its partitions over in order to end
	Left                  // has ended as requested
	Stopped               // has to end, see [Stop]
)

var stateNames = [...]string{"absent", "joining", "ready", "draining", "leaving", "left", "stopped"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// established reports whether a member in this state has been admitted, so that later
// members have to have its parameters.
func (s State) established() bool {
	return s == Ready || s == Draining || s == Leaving
}

// connected reports whether an instance in this state has a session.
func (s State) connected() bool { return Joining <= s && s <= Leaving }

// terminated reports whether an instance in this state has made its last decision.
func (s State) terminated() bool { return s == Left || s == Stopped }

// Parameters are values that have to be the same in all members.
type Parameters struct {
	First      int // the number of the generation's first partition: see [partition.Generation]
	Partitions int
	Table      int    // the TableVersion of the program
	QueueType  string // of the partition queues
}

// differences describes the differences between ours and theirs. It returns "" if there
// are none.
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

func heldLease(p int, epoch int64, holder Member) partition.Lease {
	return partition.Lease{Partition: p, Epoch: epoch, Holder: holder}
}

// A Row is the epoch table's row of one partition.
type Row struct {
	partition.Lease
	Released bool // leases that have ended, so that the partition is free
}

// A Message is what a member tells all others, or one of them. It is sent to all as often
// as Config.Heartbeat says, and earlier if there is news.
//
// State, Weight, Moves and Wants are the present state of the sender: of two messages, the one with
// the greater Seq counts. Released, Taken and Gone are facts: they stay true however
// late they arrive. Granted is a fact too, but a granted lease may have ended
// meanwhile.
type Message struct {
	From       Member
	Seq        int64 // rises with each message of From
	State      State
	Parameters Parameters
	Next       time.Duration // when the next message to all is due at the latest; 0: an older program does not say so
	Weight     int           // in the ring, in tenths; 0: an older program does not say so, and follows no moves
	Moves      moves.List    // to the sender

	Wants    []partition.Lease // leases that the sender asks their holders to hand over
	Granted  []partition.Lease // leases that the sender has taken for their holders, in place of its own
	Released []partition.Lease // which leases have ended, so that the partition is free
	Taken    []partition.Lease // leases that replaced the lease of a holder that had not released it
	Gone     []Member          // members that are gone, according to the broker
}
