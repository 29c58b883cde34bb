// Package publish sends messages in confirm mode, and learns what became of each.
//
// # What it promises
//
//   - The outcome of each message is its own. Confirmations may come in any order, so a
//     queue that confirms nothing delays only the messages to it. A message that is not
//     confirmed within a time limit is given up: its outcome is [ErrUnconfirmed].
//   - The broker refuses some messages by closing the channel, for example one that is
//     larger than its max_message_size. That costs only the refused message, whose outcome
//     is a [*RejectedError]. The others that were not confirmed are sent again over a new
//     channel, each by itself, so that the refused one is found.
//   - Messages reach the broker in the order in which they were published, also over a
//     change of the channel. A message that is sent again may follow later ones.
//   - The channel is replaced after a message was given up: the client library remembers
//     confirmations that came out of order. All other messages that were not confirmed on it are
//     lost ([ErrLost]), because those that follow over the next channel may overtake them: the
//     broker keeps a message to a quorum queue without a leader in the channel until there is one.
//
// # What it leaves to others
//
// How many messages are unconfirmed at a time. RabbitMQ stops reading from a connection
// with 32 messages on one channel that a quorum queue has not confirmed, or 400 that a
// classic queue has not accepted.
//
// RabbitMQ handles nothing else on a channel, for up to 65 seconds, when the first message
// on it to a quorum queue comes while that queue's leader does not reply. So messages to
// quorum queues that may be silent need a publisher for each, without a time limit: then
// its channel is not replaced.
package publish
