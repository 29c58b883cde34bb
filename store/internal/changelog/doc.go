// Package changelog writes the log: the requests that were decided, and the changes that they
// made ([Rows]). It says which tables the log has ([Days]), and creates and drops them
// ([Maintainer]).
//
// The log answers four questions. Was this request decided before, and how? Which request
// changed what? Which changes have not been notified yet? What has changed since a position?
//
// # Order
//
// Each change has a position in its partition. One transaction of a partition at a time is
// under way. So once a position is visible, only greater ones become visible. The first
// position of a lease follows from its epoch ([FirstPosition]), so a new owner need not read
// the last position of the lease before. A database that has lost its last commits gives no
// position twice, because it gives no epoch twice.
//
// # Design decisions and what they cost
//
//   - A row is inserted by the transaction of the write. So the log has each change that was
//     made, and no other.
//   - Each day in UTC has a table of its own, which is dropped as a whole. That takes no time
//     and leaves nothing to vacuum. The price is that tables have to be created in time. The
//     first write of a day makes sure that its table exists.
//   - Statements name the table of the day. A statement on the parent table would lock the
//     tables of all days, and take longer with each day that is kept. The price is that the
//     day is needed before the transaction begins: a transaction that begins on another day
//     fails, and is repeated.
//   - A request id is unique in the table of a day only. Around midnight, transactions that use
//     the tables of different days lock the request ids, so that the second one sees what the
//     first one has committed. Shortly before midnight, transactions look in the table of the
//     coming day too.
//   - There are three indexes, also of the current day: by request id for the first question,
//     by user and by request id for the second, by position for the other two. The price: they
//     cost each write about as much as the row.
//   - All instances try to maintain the tables, and an advisory lock lets one of them at a time
//     do it. So there is no leader that could be missing.
package changelog
