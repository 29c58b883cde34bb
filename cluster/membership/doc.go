// Package membership carries the messages between the members of the cluster over
// RabbitMQ, and the requests of an operator. It decides nothing: package ownership
// decides.
//
// Each member has a queue of its own, exclusive to its connection. The queue's name
// contains the incarnation ([QueueOf]). The broker deletes the queue together with the
// connection. So if a message to the queue is returned, this incarnation is certainly
// gone: [Membership.Probe] and [StopPredecessors] rely on that. All members' queues are
// bound to one fanout exchange, [Exchange], through which a message reaches every
// member, its sender included. A message for one member goes to that member's queue.
//
// # What is promised
//
//   - What one member sends, to all or to one, arrives in order. Any message may be
//     lost: when the broker accepts less than is sent, and when a member reads less than
//     arrives.
//   - A member's queue that takes nothing in delays no message to another member, unless
//     more than 256 are sent within two seconds.
//   - The methods that carry out ownership's commands do not wait for the broker.
//   - A message that is not one of this package's has no effect except a log line, at
//     most one per minute, also if a client publishes it to a member's queue.
//
// # What is trusted
//
// A message is believed to come from the member that it names as its sender. A client
// that may publish to the exchange, or to the default exchange, can stop instances,
// drain them, and make them believe that other members exist or are gone. The fence
// around database writes holds all the same, but reads may be stale then. The broker's
// permissions have to keep such clients out: the exchange and all queues of this package
// begin with glotpod.ident.
//
// # On the wire
//
// A message is a JSON object of up to 1 MiB. Its "v" is 1; a message with another "v" is
// ignored. The property type is heartbeat, probe, look, or that of a request: status, user,
// drain, undrain, move or unmove. A request asks for a reply to the queue that reply_to
// names, which has to begin with glotpod.ident.reply/.
package membership
