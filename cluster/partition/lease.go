package partition

import (
	"cmp"
	"fmt"
)

// A Lease is the right of a member to write to the users of one partition. It lasts until
// the epoch table has another epoch or another holder for the partition, or marks the lease
// as released. The zero Lease is none.
type Lease struct {
	Partition int
	Epoch     int64 // from 1 on; 0 means no lease, which is enough for writes that belong to no user
	Holder    Member
}

// An Incarnation distinguishes the lives of one name. Each connection to the broker is
// a life of its own, because the broker deletes what belongs to a connection together
// with it.
type Incarnation struct {
	Start   int64 // of the process; greater in each later run under the same name
	Session int64 // the number of the process's connection to the broker
}

// Compare orders the incarnations of one name. A greater one supersedes the smaller
// ones.
func (i Incarnation) Compare(other Incarnation) int {
	return cmp.Or(cmp.Compare(i.Start, other.Start), cmp.Compare(i.Session, other.Session))
}

// A Member is one incarnation of the name of an instance.
type Member struct {
	Name        string
	Incarnation Incarnation
}

// String returns name/start.session.
func (m Member) String() string {
	return fmt.Sprintf("%s/%d.%d", m.Name, m.Incarnation.Start, m.Incarnation.Session)
}
