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
//	          instance, the mover, claims all leases of the old generation, deposes the holders that do not
//	          stop in time, waits until the broker has dropped their connections, and consumes all old
//	          queues, without carrying anything out. When all changes are notified, it ends the old
//	          generation in the database.
//	moving    The mover unbinds the old queues but the first one, which gets all direct requests then. It
//	          moves each request of the old queues, in order, to the new queue of its user. Then it binds the new
//	          queues, unbinds the first old one, moves what has come to that, and begins the new
//	          generation in the database.
//	clearing  The instances begin sessions in the new generation. One of them moves what still comes
//	          to the old queues, and deletes these.
//
// # What it promises
//
//   - A request waits meanwhile, in the shared queue or in that of a partition. It is moved with a
//     confirmation of the copy, so none is lost. A request that is moved twice, because the mover died
//     in between, has the same request id.
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
//
// # What it leaves to others
//
// The record of generations is package generations of the store. Package cluster begins and ends
// sessions, and says how a request is copied.
package repartition
