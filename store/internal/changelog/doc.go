// Package changelog writes the log: the requests that were decided, with the changes that they
// have made ([Rows]). It says which tables the log has today ([Days]), and maintains them
// ([Maintainer]).
//
// The log answers four questions. Was this request decided before, and how? Which request
// changed what? Which changes have not been notified yet? What has changed since a position?
//
// # Order
//
// Each change has a position in its partition. One transaction of a partition at a time is
// under way. So a position that can be seen is followed only by greater ones. The first
// position of a lease follows from its epoch ([FirstPosition]); nobody reads which was the
// last one of the lease before. A database that has lost its last commits gives no position
// twice, because it gives no epoch twice.
//
// # Design decisions and what they cost
//
//   - A row is inserted by the transaction of the write. So nothing is recorded, audited or
//     notified that was not done, and nothing is forgotten.
//   - Each day in UTC has a table of its own, which is dropped as a whole. That takes no time
//     and leaves nothing to vacuum. The price is that tables have to be made in time. The first
//     write of a day makes sure that there is one.
//   - Statements name the table of the day. A statement on the parent table would lock the
//     tables of all days, and take longer with each day that is kept. The price is that the
//     day is needed before the transaction begins: a transaction that begins on another day
//     fails, and is repeated.
//   - A request id is unique in the table of a day only. Around midnight, transactions that use
//     the tables of different days lock the request ids, so that one of them sees what the
//     other has done. Shortly before midnight they look in the table of the coming day too.
//   - Three indexes cost each write about as much as the row: by request id, by position and by
//     user. Each of them answers one of the four questions, for the current day too.
//   - All instances try to maintain the tables; an advisory lock lets one at a time do it. There
//     is no leader that could be missing.
package changelog
