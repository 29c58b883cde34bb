// Package cluster connects the actors to RabbitMQ: it takes requests off the
// queue, has them carried out, and sends the answers and the notifications.
//
// # A request's way
//
// The shared queue is consumed with a bound on how many requests are taken and
// not yet answered, so what does not fit waits in the broker. The router reads
// each request: what reads is answered from the store, what writes goes to the
// actor of its user, which serialises that user's writes. The answer follows
// the commit, and the acknowledgement follows the answer, on one channel: a
// request that the broker believes done has been answered, and one that was not
// answered comes again.
//
// # A session
//
// Everything between connecting and losing the connection is one [session],
// and nothing of it is carried over into the next: what was not acknowledged,
// the broker delivers again, and the identity of a request tells what has been
// done of it already. Notifications that the broker had not confirmed are read
// from the outbox before the next session takes its first request, so that
// they keep their order.
package cluster
