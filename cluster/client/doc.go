// Package client calls the identity service from Go, and receives its notifications. It is
// for GlotPod's services. The protocol is described in cluster/PROTOCOL.md.
//
//	c, err := client.Dial(ctx, client.Options{Addresses: []string{"rabbitmq:5672"}, Login: "glotpod-api", Password: "…"})
//	user, err := c.Get(ctx, client.Query{Email: "ada@example.org"})
//	err = c.Patch(ctx, user.ID, client.Replace("/name", "Ada L."))
//	if errors.Is(err, client.ErrConflict) { … }
//
// # What it promises
//
//   - One [Client] has one connection, which any number of goroutines share. A lost
//     connection is replaced, at another address if there are several.
//   - A request returns when its context ends, whatever the broker does. It has 30 seconds
//     if its context has no deadline. The deadline goes along: the service does not carry out
//     a request that has expired.
//   - A request is sent again if the connection was lost, if no reply came for some seconds,
//     or if the service says that a retry may help. It keeps its message id, so it is applied
//     once. Pauses grow exponentially, with jitter. So a caller need not retry by itself while
//     its context lasts. If it does so later, a write needs the message id of the first time.
//   - A request that no queue gets fails at once, with [ErrNoService].
//   - Each error code of the service is an error value, such as [ErrConflict]. [ErrNoReply]
//     means that the outcome of a write is unknown, [ErrNotSent] that it was not made.
//   - Memory is bounded. At most 1,024 requests are under way, and fewer if they are large;
//     further ones wait for their turn.
//   - [Client.Watch] handles each change after a position, in each user's order, whatever becomes of
//     its notification.
//   - What another client of the broker sends to the reply queue or to the queue of Watch
//     costs no more than that message, and a look at the log.
//
// # Design decisions and what they cost
//
//   - All requests go to the exchange amq.topic, not to the partition of their user. With 128
//     in flight, direct requests were slower: of patch 0.9 times as many with one instance and
//     0.86 with three, of get 0.85 and 1.0; with quorum queues they cost the broker twice the
//     work. They would also need a right on a second exchange. Cost: a write to a user of
//     another instance is relayed.
//   - [Client.Watch] takes changes from the log only, and a notification as the signal to read it. So
//     no loss, repetition or order of notifications matters, a position is all that a subscriber
//     stores, and its queue needs no room. Cost: a request for each change, or five a second
//     if there are more; access tokens that were notified, and the trace context of a change, are
//     not passed on.
//   - Watch has a connection of its own, which it can close if the broker does not reply. Cost: a
//     connection for each Watch.
//   - A channel that the broker closes is replaced together with its connection, which makes
//     one way of recovery instead of two. Cost: a message that the broker rejects interrupts
//     the other requests for some milliseconds.
package client
