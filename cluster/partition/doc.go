// Package partition says into which partition a user id falls: the one whose
// queue RabbitMQ's consistent hash exchange picks for that id.
//
// The exchange numbers its buckets in the order in which queues were bound to
// it, each taking as many as its weight. So where partitions 0 … P-1 were bound
// in that order with weight "1" each, and messages carry a user's id in decimal
// as their routing key, [Of] is the partition that the broker delivers to.
//
// # When queues were bound in another order
//
// The exchange knows nothing of partitions. Bucket n is the queue that was bound
// as the n-th, counted from 0 and over those that are bound now. A queue that is
// unbound leaves its bucket to the next one, which leaves its own to the one
// after it; when bound again, it comes last. After some restarts the broker
// itself has bound the queues in another order than before. The users of a
// partition are then still together, in the queue that has their bucket. What is
// to be done about that is left to others.
//
// A queue that is bound twice, with different weights, counts as it was bound
// first. It loses its bucket with either binding, and does not get it back until
// both are gone and it is bound again: the broker's list of bindings does not
// always tell what the exchange does.
//
// # The function
//
// RabbitMQ, from 3.10 at the latest until 4 at least, computes in Erlang
//
//   - phash2 of the routing key: Bob Jenkins' hash of 1996, known as lookup2
//     (https://burtleburtle.net/bob/hash/evahash.html), from an initial value
//     of Erlang's own, and the low 27 bits of it;
//   - with that as the seed, the random numbers of Erlang's exs1024: Sebastiano
//     Vigna's xorshift1024* (https://arxiv.org/abs/1402.6246);
//   - with those, John Lamping's and Eric Veach's jump consistent hash
//     (https://arxiv.org/abs/1406.2294), so that P+1 partitions instead of P
//     move about one user in P+1, and all of these into the new partition.
//
// Erlang makes the generator's state from the low 21 bits of the seed. All users
// therefore share 2,097,152 ways through the partitions, and with P in the
// thousands some partitions have noticeably more users than others.
package partition
