// Package topology declares the exchanges and queues by which requests come, and repairs
// them while the service runs.
//
// # What it promises
//
//   - Declaring is idempotent. Any number of instances may declare at the same time:
//     what exists stays as it is, and the partition queues keep the order of their
//     bindings, on which the consistent-hash exchange depends.
//   - The shared queue is declared just as earlier versions of the service declared it. One
//     that exists is used as it is.
//   - What only the broker's operator can mend is a [SetupError], which says what is needed.
//   - A broker without the plugin for the consistent-hash exchange is enough: then
//     requests come by the shared queue alone.
//   - Queues whose node is down are left out, and cost the others nothing.
//   - While an instance runs, a [Repairer] declares again what was deleted, and binds the
//     partition queues again when the exchange has lost their order, or one of them. One
//     instance at a time does the latter. One instance of the cluster looks after what
//     belongs to all: the exchanges and the shared queue. It sends probes through the
//     direct exchange, since the exchange may have lost a queue whose binding is listed.
//
// # What it leaves to others
//
// Consuming the queues is left to package consume. That a request reached the wrong
// queue is noticed by package cluster, which forwards it.
package topology
