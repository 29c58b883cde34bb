// Package notify sends the notifications of committed changes to subscribers.
//
// A change and its notification are one row of the log, at a position in its partition. After
// the commit the store passes the notification to [Notifier.Send]. A notification between Send
// and its confirmation is pending. Each second the store asks what was notified
// ([Notifier.Progress]), and stores it.
//
// # What it promises
//
//   - Each notification is sent at least once, and those of one user in the order of its
//     changes. A repetition has the same message id, and may follow later notifications of
//     the user.
//   - Nobody waits for a subscriber. Send never blocks: at most 1024 notifications and
//     16 MiB are pending, and what comes beyond that is left to the log and read from
//     there later. Taking a partition over reads whether its log has more, and sends
//     nothing; handing it over waits for its pending notifications, for a second at most.
//     The order holds across owners all the same, because an owner that has left
//     something in the log, or has found something there, sends from the log.
//   - If the broker refuses a notification because a subscriber's queue takes no more, or
//     does not confirm it in time, it and all later ones of the user are held back: they
//     stay in the log and are sent from there, in order, until they are accepted.
//     Other users do not wait, unless too many are held back. The same holds for
//     notifications that cannot be decrypted, until an instance has the key or the encrypted
//     notification is deleted: then it is sent without access tokens.
//   - A subscriber whose queue refuses costs the others only the notifications of the
//     users that are held back. A queue that is silent holds up all notifications with
//     the routing key, because RabbitMQ would then take nothing more over the connection.
//   - What is held back is sent again one at a time, after pauses that grow to half a
//     minute, and everything once the broker has accepted that one.
//   - If this process did not learn of a commit, its notification is found in the log
//     and sent ([Notifier.Missed]).
//   - What Progress returns leaves out nothing that is not confirmed, whenever the process dies.
//
// # How it works
//
// Each partition has a lane. Normally the lane is direct: what is committed is published
// at once. A lane that has left something in the log is behind: it leaves all further
// notifications there too, and a pass over the partition's log, page by page, publishes them
// in order. The lane is direct again when a pass has reached the end.
//
// A notification that is not confirmed is pending, or of a user that is held back, or it was left
// to the log. Nothing else is remembered: all others up to the last one that was sent are
// confirmed. So a pass can tell which rows of a page it must not send again.
//
// If the broker has not decided on a notification, later ones of the user that are not sent yet
// stay unsent: a queue may lack the earlier one. RabbitMQ keeps a message to a quorum queue without a
// leader in the channel, and what comes over another channel overtakes it.
//
// The exchange routes by the routing key, so a queue that refuses or is silent concerns
// some keys. Each key has a gate, which closes when the broker refuses a notification
// with the key. While it is closed, no notification with the key is sent a second time,
// but for the probes; if the broker is silent, none is sent a first time either. If the
// broker accepts a probe, the gate opens step by step, and each lane with something left
// makes a pass.
//
// # What it leaves to others
//
// The store writes and reads the log, and stores up to which position it was notified. Package
// cluster decides which partitions are this instance's, and when they are handed over.
package notify
