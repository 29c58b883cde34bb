// Package outbox stores which committed changes were notified, and reads those that may not have
// been.
//
// A change and its notification are one row of the log ([changelog]). After the commit the store
// hands the notification to a sink ([Outbox.Send]), which publishes it and alone knows what the
// broker has confirmed.
//
// Each partition has a cursor, the column notified of ident_partitions: the changes up to this
// position were notified, except those of the users in ident_held_back, from a position on: a
// queue refuses them, or they waited for their confirmation when the lease ended. The outbox asks
// the sink each second, and before a partition is released, and writes what has changed
// ([Outbox.Flush]). If the process dies, the next owner finds the rest in the log ([Outbox.Page]).
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
//   - An encrypted notification is deleted by the transaction that moves the cursor beyond it, or
//     that ends the holding back of its user. Neither looks at those that are still held back. So
//     none is left behind, whenever the process dies.
//   - The survey of leases tells which have ended. Nothing else is asked in order to forget them,
//     and so the sink knows them for some seconds.
//   - The day from which on the log is read is stored beside the cursor. It is that of the database
//     when a position was the last one, once the cursor has reached this position, less a day. So
//     nobody has to remember when each change was committed. A page asks the database for the day,
//     which is a round trip, and reads the tables of all days since, in one snapshot.
//   - The order of a user's notifications is that of their positions. There is no order between
//     users.
//   - A notification that no key decrypts is not skipped: later notifications of the same user
//     wait behind it. The alternative, to lose one silently, cannot be repaired.
package outbox
