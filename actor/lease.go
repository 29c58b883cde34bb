package actor

import "errors"

// A Lease is the right to write to the users of one partition. It is over when
// somebody claims the partition, who thereby gets a greater epoch.
type Lease struct {
	Partition int
	Epoch     int64 // from 1 on; 0: no lease, good for writes that belong to no user
}

// ErrFenced says that nothing was written, since the lease is over.
var ErrFenced = errors.New("actor: the lease is over")
