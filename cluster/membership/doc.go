// Package membership carries what the members of the cluster tell one another
// over RabbitMQ, and what an operator asks of them. It decides nothing: that is
// package ownership's.
//
// Each member has a queue of its own, exclusive to its connection, whose name
// tells the incarnation ([QueueOf]). The broker drops the queue with the
// connection, so whoever publishes to the queue and has the message returned
// knows for certain that this incarnation is over. That is what
// [Membership.Probe] and [StopPredecessors] do. All members' queues are bound to one fanout
// exchange, [Exchange], by which a message reaches everybody, its sender
// included. What concerns one alone goes to that one's queue.
//
// # What is promised
//
//   - What one member broadcasts, and sends to one, arrives in order. Anything may
//     be lost: when the broker takes in less than is sent, and when a member reads
//     less than comes.
//   - No call by which ownership's commands are carried out waits for the broker.
//   - Whatever anybody publishes to the exchange or to a member's queue, nothing
//     comes of it but a line in the log, at most once a minute, unless it is a
//     message of this package.
//
// # What is trusted
//
// A message is believed to be of the member that it says it is of. Who may write
// to the exchange, or to the default exchange, can stop instances, drain them,
// and make them believe that others are there or gone; the fence around writes
// to the database holds all the same, but what is read may be stale then. The broker's permissions have to keep
// others out: the exchange and all queues of this package begin with
// glotpod.ident.
//
// # On the wire
//
// A message is a JSON object of up to 1 MiB. Its "v" is 1; one with another is
// not looked at. The property type says what it is: heartbeat, probe, status,
// drain or undrain. The last three ask for an answer to the queue that reply_to
// names, which has to begin with glotpod.ident.reply/.
package membership
