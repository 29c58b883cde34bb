// Package cluster makes of N equal processes one service: it takes requests off
// RabbitMQ, brings each to the instance that may carry it out, and sends the
// answers and the notifications.
//
// # A request's way
//
//	caller ──▶ glotpod.rpc/ident ──▶ any instance: router
//	                                  │ reads: answered there
//	                                  │ writes: to their user's partition
//	                                  ▼
//	caller ──▶ glotpod.ident ──▶ glotpod.rpc/ident/0042 ──▶ its owner: actor ──▶ database
//	           (consistent hash)
//
// User ids fall into partitions ([partition.Of]), and each has a queue of its own
// that one instance at a time consumes: its owner, who runs an actor for each
// user that somebody asks for. A caller that knows the user's id may publish to
// the hash exchange, which leads to the user's partition. All others publish to
// the shared queue, which every instance consumes as a router. What the router
// may do itself it does: it reads from the database, where all is that was
// answered. What has to be done in its user's partition it hands to the actor, if
// the partition is its own, or publishes to the partition's queue; the request is
// acknowledged when the broker has confirmed that.
//
// Whatever comes by a partition's queue is checked. The exchange may forget the
// order of its queues; then requests come to the wrong partition, and are passed
// on from there to the right one, while one instance binds the queues anew. So
// routing is never wrong, only sometimes longer.
//
// The answer follows the commit, and the acknowledgement follows the answer: a
// request that the broker believes done has been answered, and one that was not
// answered comes again. Acknowledgements wait some milliseconds for others ([acks]),
// so that the broker has less to do. What was answered and not acknowledged when
// an instance dies comes again too, and is answered again: a write as before.
//
// # Who owns what
//
// Package ownership decides, and a [coordinator] carries its decisions out: with
// package membership, by which the instances know of one another, and with the
// epoch table in the database. Each write is fenced by its partition's epoch, so
// an instance that has lost a partition without knowing can write nothing.
//
// It could still read, from memory. But a partition is taken from an instance
// only when the broker has dropped that one's connection, or should have long
// ago; and what is answered is answered over this connection.
//
// # A session
//
// Everything between connecting and losing the connection is one [session], and
// nothing of it is carried over into the next: what was not acknowledged, the
// broker delivers again, and the identity of a request tells what has been done
// of it already. It has one channel for each queue that it consumes ([line]), so
// that one partition's end does not touch the others, some for those to come
// ([lines]), and one each for notifications, for requests that are passed on ([hops]),
// and for membership.
//
// Notifications that an earlier owner of a partition has left in the outbox are
// sent before the partition is served, so that each user's keep their order.
package cluster
