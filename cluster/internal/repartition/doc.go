// Package repartition changes the number of partitions, and the type of their queues, while requests
// come.
//
// # How it works
//
// A repartition is a row in the database, which the command of that name writes. All instances look at
// the row: each second, and when the command or another member wakes them. Then
//
//	phase     what happens
//	stopping  Each instance stops as if it was asked to end, and releases its leases at once. One
//	          instance, the mover, sends a probe to each queue: if a new one takes nothing in, it gives
//	          the repartition up. It claims all leases of the old generation, deposes the holders that do not
//	          stop in time, waits until the broker has dropped their connections, and consumes all old
//	          queues, without carrying anything out. When all changes are notified, it ends the old
//	          generation in the database.
//	moving    The mover unbinds the old queues but the first one that is available, which gets all direct
//	          requests then. It moves each request of the old queues, in order, to the new queue of its
//	          user. Then it binds the new queues, unbinds that old one, moves what has come to it, and
//	          begins the new generation in the database.
//	clearing  The instances begin sessions in the new generation. One of them moves what still comes
//	          to the old queues, and deletes these.
//
// # Queues that are not available
//
// A queue may have no leader, its node may be down, or it may take nothing in. An attempt that fails for
// this reason is followed by one that finds out by probes which queues these are. If no queue at all takes a
// probe, the broker or the network is at fault, and the attempt fails. An old one is
// left: the new generation begins without it, and what is in it is moved in the phase clearing, when the
// queue is back. Until then it is not deleted. What would go to a new queue that is not available goes to the
// shared queue, as it is not served either. While the broker blocks all publishing, nothing can be moved, and no
// reply can be sent: everything waits.
//
// # What it promises
//
//   - A request waits meanwhile, in the shared queue or in that of a partition. It is moved with a
//     confirmation of the copy, so none is lost. If the queue refuses the copy, the caller gets an error
//     reply. A request that is moved twice, because the mover died in between, has the same request id if its
//     caller has given it one.
//   - No request of the new queues is carried out before all requests of the old queues are moved, and
//     those of one user are moved in the order in which the broker has put them into queues. So a
//     caller that waits for its replies finds its requests in order. Two direct requests that are sent
//     one after another without waiting may change places while the queues are bound, which
//     takes some milliseconds: the exchange cannot change all bindings at once.
//   - No user's later change is notified before its earlier ones.
//   - Whatever dies, another instance carries the repartition on: each step can be repeated. If a step of
//     the phase stopping fails for longer than a moment, the old generation goes on. From the phase
//     moving on, there is no way back: it is tried until it is done.
//   - One mover at a time: the queues have one consumer, and each change in the database names the attempt.
//   - Nobody waits for a queue that is not available but its own users, beyond the time that it takes to find
//     that out, some ten seconds. Price: the requests in an old queue that was left may be overtaken by
//     later ones, which went to new queues. To their callers it is as if the broker delivered them late: they have
//     had no reply. Why not keep the users of such a queue waiting: the reason to repartition may be that
//     its node does not come back.
//   - An old queue is deleted only after its marker was received, that is, when the broker has given
//     back what former consumers had received. RabbitMQ 4.3 activates no other consumer of a quorum queue
//     for up to a minute after it has lost one that had not acknowledged everything; the queue is
//     left then, and emptied later. A queue that was not available is kept for twelve seconds more after
//     it was emptied: the broker may have kept messages for it in the channels of their senders.
//   - The bodies in memory are bounded by bytes. One larger body is moved alone.
//
// # What it leaves to others
//
// The record of generations is package generations of the store. Package cluster begins and ends
// sessions, and says how a request is copied.
package repartition
