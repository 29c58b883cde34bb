package partition

import "strconv"

//go:generate escript testdata/erlang.escript testdata

// Of returns the partition of a user, from 0 to partitions-1. It panics if partitions
// is less than 1.
func Of(userID int64, partitions int) int {
	var decimal [len("-9223372036854775808")]byte
	return jump(phash2(strconv.AppendInt(decimal[:0], userID, 10)), partitions)
}

// OfKey returns the partition of any routing key, which need not be a user's id. It
// panics if partitions is less than 1.
func OfKey(routingKey string, partitions int) int {
	return jump(phash2([]byte(routingKey)), partitions)
}

// jump is the jump consistent hash of a seed. If partitions are added one by one, the
// seed moves into new partition n with probability 1/(n+1). Instead of a decision for
// each partition, jump computes the next partition that the seed moves to, until that
// is beyond the existing ones.
func jump(seed uint32, partitions int) int {
	if partitions < 1 {
		panic("partition: there must be at least one partition")
	}
	var random exs1024
	random.seed(seed)
	for partition := 0; ; {
		next := float64(partition+1) / random.uniform()
		if next >= float64(partitions) { // also where it would overflow an int
			return partition
		}
		partition = int(next)
	}
}
