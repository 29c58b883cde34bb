package partition

// A Lease is the right to write to the users of one partition. It ends when a member
// claims the partition: a claim raises the epoch. The zero Lease is none.
type Lease struct {
	Partition int
	Epoch     int64 // from 1 on; 0 means no lease, which is enough for writes that belong to no user
}
