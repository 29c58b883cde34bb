// Package leases changes and reads the epoch table: which member holds the lease of each
// partition, and under which epoch.
//
// A lease is the right of a member to write to the users of one partition. A claim takes a lease that
// is released, or deposes the holder of a named epoch; it raises the epoch. The holder
// releases a lease, or hands it over to another member, which raises the epoch too. The
// package documentation of store, section Fencing, says why no write is committed under
// a lost lease.
//
// # Locks
//
// Writes of a partition share an advisory lock of class [LockClass]. A claim and a
// hand-over take it exclusively, so each waits until the transactions of earlier writes
// have ended in the server. All transactions take their locks in ascending order of the
// partitions, so no deadlock is possible.
//
// Writes of a partition also take a lock of class [OrderClass] exclusively, so that one
// transaction of writes at a time is under way. Claims and hand-overs do not take it.
//
// # Design decisions and what they cost
//
//   - Claims are grouped in transactions of two round trips. First those that depose nobody are
//     committed, then the others: a frozen holder delays only claims that depose it.
//   - A claim waits 200 ms for a lock. Then it terminates the connections of the holders
//     that it deposes. A transaction that was about to commit is lost with them; its
//     write is fenced, which is what a claim means.
//   - A hand-over does not terminate connections. If a transaction is in the way, all its
//     partitions are released instead. The price is that the next holder has to claim them,
//     one round trip more and some milliseconds without a holder.
//   - A release takes no lock and need not be durable (synchronous_commit off), because the claim that
//     follows waits for the lock and is durable itself. After a crash of the database the
//     table may name a holder that has released the partition; it says so when asked.
//   - A hand-over and a take-over write to the write-ahead log even if they change no row. So
//     they wait for the synchronous standbys, which may lack the lease that they find. The
//     price is a flush of that log for each take-over.
//   - All of this uses a connection that is reserved for it, so that no number of reads and
//     writes delays a claim or a hand-over. The price is one connection for each process.
//   - Whether leases stand is asked in one statement for all of a process ([Table.Ended]), which finds
//     each row by its key. The price is a look-up for each partition, up to five times a second.
//   - The table is read as a whole ([Table.Survey]), at most 16,384 rows. There is no
//     notification about changes: members tell each other, and survey now and then.
package leases
