// Package outbox keeps notifications from their commit until the broker has confirmed
// them.
//
// A write inserts its notification into the table ident_outbox in the transaction that
// changes the user. After the commit the store hands the notification to a sink, which
// publishes it ([Outbox.Send]). Once the broker has confirmed it ([Outbox.Confirm]), the
// row is deleted. If the process dies in between, the notification stays in the table, and
// the next holder of its partition finds it there ([Outbox.Page]).
//
// # Design decisions and what they cost
//
//   - A confirmed row is deleted by the next commit of any user, in the same round trip,
//     and by a sweep if there is none for a second. So a confirmation costs no round trip
//     of its own. The price: a process that dies in between leaves confirmed
//     notifications behind, and the next holder publishes them again. Subscribers
//     receive each notification at least once.
//   - A release of a partition deletes all confirmed rows ([Outbox.RemoveAll]). It deletes
//     also the rows that another transaction is deleting at the moment: if that one
//     fails, they would stay, and the next holder would find them.
//   - The order of a user's notifications is the order of their ids. Only one member at a
//     time writes to a partition, so ids of one user ascend in the order of the commits. There
//     is no order between users.
//   - A page is read by an index on partition and id, so what is read does not depend on how
//     much is stored. The price: each notification is in a second index.
//   - A notification that no key decrypts is not skipped: later notifications of the same user
//     wait behind it. The alternative, to lose one silently, cannot be repaired.
package outbox
