// Package audit records which request changed what ([Rows]), and maintains the table
// ident_audit ([Maintainer]).
//
// The table has a partition for each day, and ident_audit_rest for the rows of other days. An
// instance creates the partitions of the next 7 days, drops those that no longer have
// to be kept, and indexes the days that are over.
//
// # Design decisions and what they cost
//
//   - A row is inserted by the transaction of the write, so the record is complete. It costs one
//     more statement in that round trip.
//   - Old days are dropped, not deleted row by row: dropping a table takes no time and leaves nothing
//     to vacuum. The price is the maintenance of partitions.
//   - There is no index on the current day: it would cost each write more than the row does. A query
//     for the changes of one user reads the whole current day.
//   - A missing partition is no reason to refuse a write. ident_audit_rest takes the row; its old rows
//     are deleted in small steps.
//   - All instances try to maintain the table; an advisory lock lets one at a time do it. There is no
//     leader that could be missing.
package audit
