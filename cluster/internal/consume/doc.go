// Package consume takes requests from queues, each over a channel of its own, and sends
// their replies and acknowledgements.
//
// # What it promises
//
//   - Only deliveries that were acknowledged with [Consumer.Ack] are acknowledged to the
//     broker, each once. That happens within [AckDelay] if the caller calls
//     [Consumer.FlushAcks] after it. Acknowledgements are sent together, since the broker
//     handles many at hardly more cost than one. Until then, they count as not
//     acknowledged: if the instance dies, the requests are delivered again.
//   - When the prefetch count is used up, all waiting acknowledgements are sent at once.
//   - A consumer can be cancelled and closed while replies are sent on it; neither costs
//     the connection.
//   - Deliveries that wait take as many bytes as a [Budget] allows, or one body for each
//     consumer. For more, [Consumer.Receive] asks for a consumer with a lower prefetch
//     count. It accepts deliveries in their order, and none that follows one that it did not
//     accept.
//   - A [Pool] keeps open channels, so that a partition that moves does not wait for one.
//
// # What it leaves to others
//
// Routing requests, and waiting until all of them are complete, is left to package
// cluster. So is declaring the queues.
package consume
