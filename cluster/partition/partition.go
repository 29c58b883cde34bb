package partition

import "strconv"

//go:generate escript testdata/erlang.escript testdata

// Of returns the partition of a user, from 0 to partitions-1. It panics if there
// are no partitions.
func Of(userID int64, partitions int) int {
	var decimal [len("-9223372036854775808")]byte
	return jump(phash2(strconv.AppendInt(decimal[:0], userID, 10)), partitions)
}

// OfKey returns the partition of what has the given routing key, which need not
// be a user's id. It panics if there are no partitions.
func OfKey(routingKey string, partitions int) int {
	return jump(phash2([]byte(routingKey)), partitions)
}

// jump is the jump consistent hash of a seed. As partitions are added one by
// one, what has that seed moves into each new partition n with probability
// 1/(n+1). Rather than toss a coin for each of them, it draws where the next move
// would lead, until that is beyond the partitions that there are.
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
