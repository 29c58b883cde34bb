// Package notify sends the notifications of committed changes to subscribers.
//
// A change and its notification are committed in one transaction: the notification is a
// row of the outbox. After the commit the store passes it to [Notifier.Send], and when
// the broker has confirmed it, the row is deleted. A notification between Send and its
// confirmation is pending.
//
// # What it promises
//
//   - Each notification is sent at least once, and those of one user in the order of its
//     changes. A repetition may follow later notifications of the user.
//   - That order holds across owners of a partition: [Notifier.CatchUp] sends what earlier
//     owners have left in the outbox before the partition is served, and [Notifier.Flush]
//     waits for pending notifications before the partition is handed over.
//   - If the broker refuses a notification, because a subscriber's queue takes no more,
//     it and all later ones of the user are held back: they stay in the outbox and are
//     sent from there, in order, until they are accepted. Other users do not wait. The
//     same holds for notifications that cannot be decrypted, until an instance has the
//     key or the notification is deleted.
//   - If this process did not learn of a commit, its notification is found in the outbox
//     and sent.
//   - At most 1024 notifications and 16 MiB are pending; then Send blocks, and commits
//     wait.
//
// # What it leaves to others
//
// The store writes and reads the outbox. Package cluster decides which partitions are
// this instance's, and when they are handed over.
package notify
