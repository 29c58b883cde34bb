// Package outbox knows which committed changes have not been notified yet.
//
// A change and its notification are one row of the log ([changelog]). After the commit the store
// hands the notification to a sink, which publishes it ([Outbox.Send]), and which says when the
// broker has confirmed it ([Outbox.Confirm]).
//
// Each partition has a cursor, the column notified of ident_partitions: the changes up to this
// position were notified. It is written each second, and with the release of the partition. If
// the process dies, the next owner finds what lies behind the cursor ([Outbox.Page]).
//
// The cursor does not wait for a user whose notifications are not confirmed for some seconds, or
// until the lease ends, while later ones of others are: a queue refuses them. Such a user is held
// back. The transaction that moves the cursor beyond its first notification writes that one's
// position to ident_held_back.
//
// # Design decisions and what they cost
//
//   - There is no table of pending notifications, which each write would insert into and delete
//     from. The price: after a crash, up to a second of confirmed notifications is sent again.
//     Subscribers receive each notification at least once.
//   - The cursor is written under the lease, and not after its release. So the next owner's cursor
//     is never moved by the owner before it, and finds nothing that was confirmed before the release.
//   - A flush whose connection is lost may be executed after later ones. It moves no position back,
//     and deletes no row of a later flush. It may hold a user back whose notifications are confirmed:
//     the next owner sends them again. To rule that out would take a number in each row.
//   - What is in memory is a number of users, not of notifications: for each user that has an
//     unconfirmed one, its first and last position. If there are too many users, what is beyond is
//     left to the log, and read from there again until there are fewer. Then some notifications are
//     sent twice.
//   - An encrypted notification is deleted by the transaction that moves the cursor beyond it, or
//     that ends the holding back of its user. Neither looks at those that are still held back. So
//     none is left behind, whenever the process dies.
//   - The survey of leases tells which have ended. Nothing else is asked in order to forget their
//     cursors, and so they stay in memory for some seconds.
//   - The order of a user's notifications is that of their positions. There is no order between
//     users.
//   - A notification that no key decrypts is not skipped: later notifications of the same user
//     wait behind it. The alternative, to lose one silently, cannot be repaired.
package outbox
