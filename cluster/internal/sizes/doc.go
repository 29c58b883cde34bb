// Package sizes finds out how large the messages are that the broker accepts, before they
// are sent.
//
// The broker tells its max_message_size in no other way than by closing the channel on
// which a larger message is published, with all that is in flight there. So before the
// first message of some size is published on a channel that matters, a message of that
// size or more is sent to no queue, on a channel that does not.
//
// # What it promises
//
//   - The limit is found exactly. If it is lowered while the broker runs, one channel is
//     lost; then it is found again.
//   - A size that was asked about before, or a smaller one, costs an atomic load.
//   - The answer takes at most two seconds.
package sizes
