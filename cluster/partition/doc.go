// Package partition computes the partition of a user id: the partition whose queue
// RabbitMQ's consistent hash exchange picks for that id. It also has the [Lease], the right
// to write to a partition.
//
// The exchange numbers its buckets in the order in which queues were bound to it. A queue
// gets as many buckets as its weight. So if partitions 0 … P-1 were bound in that order,
// each with weight "1", and the routing key of a message is a user's id in decimal, [Of]
// returns the partition that the broker delivers to.
//
// # When queues were bound in another order
//
// The exchange does not know partitions. Bucket n belongs to the n-th queue, counted from 0
// and in the order of binding, of those that are bound now. If a queue is unbound, each
// later queue moves down by one bucket; if the queue is bound again, it gets the last
// bucket. After some restarts the broker has bound the queues in another order than before.
// Then the users of a partition are still together, in the queue that has their bucket.
// Package cluster handles that.
//
// If a queue is bound twice, with different weights, the first binding counts. The queue
// loses its bucket when either binding is removed. It gets a bucket again only after both
// are removed and it is bound again. So the broker's list of bindings does not always show
// what the exchange does.
//
// # The function
//
// RabbitMQ computes in Erlang (tried: 3.10 to 4.3):
//
//   - phash2 of the routing key: Bob Jenkins' hash of 1996, known as lookup2
//     (https://burtleburtle.net/bob/hash/evahash.html), from an initial value
//     of Erlang's own, and the low 27 bits of it;
//   - the random numbers of Erlang's exs1024, Sebastiano Vigna's xorshift1024*
//     (https://arxiv.org/abs/1402.6246), with these 27 bits as the seed;
//   - with these numbers, John Lamping's and Eric Veach's jump consistent hash
//     (https://arxiv.org/abs/1406.2294). One partition more, P+1 instead of P, moves
//     about one user in P+1, and each of these into the new partition.
//
// Erlang makes the generator's state from only the low 21 bits of the seed. So there are only
// 2,097,152 different sequences of random numbers, and with thousands of partitions some
// have noticeably more users than others.
package partition
