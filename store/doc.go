// Package store keeps the users in PostgreSQL. It fulfils [actor.Store].
//
// # Writing
//
// Writes that wait at the same moment share a transaction (group commit), which
// takes one or two round trips however many they are.
//
// So do writes to one user that wait: each decides on what the one before it has left,
// and the user's rows are written once, as the last one leaves them. Each has its own
// record, notification and row of the audit. One that could fail, and the others with
// it, is committed by itself: it gives the user another email or service id; as does one
// that makes or deletes him.
//
// Where the users have to be read, it is two: the first locks the users' rows, the
// second writes what the writes have decided, and commits. Since a write decides
// on rows that are locked, what another program has written meanwhile, to the row
// of a user or of its services, is never overwritten unseen.
//
// Where each write knows its user ([actor.Write]'s Known), makes a new one, or is
// refused whatever is stored, it is one. The writes have decided before, and the
// transaction first compares what they took for granted with what is there: that
// the users' rows are of the versions that are known, and it locks those that it
// will change; that no request has come before; that the emails and service ids
// which are wanted are free; and the leases. The statements that write are in the
// same round trip, and do nothing unless all of that holds. Where it does not,
// the writes are done by reading their users, which takes two round trips more,
// and another one where a patch gives a user another email or service id. A row's
// version is its xmin, by which PostgreSQL tells what a transaction has written.
//
// With each write are committed: its outcome under the request's identity, so
// that the request is applied once however often it comes; and its notification
// in the outbox, so that the world is told of it, though this process may die
// the moment after.
//
// What keeps emails and service ids unique is the tables' constraints; they are
// checked beforehand only so that one write's conflict is that one's refusal,
// and not the failure of all that share its transaction. Where another
// transaction is faster between the check and the commit, the group fails, and
// each user's writes are tried again without others'.
//
// After a commit whose outcome is unknown, because the connection was lost,
// the write is tried again until it is known: its identity tells whether it was
// applied.
//
// # Fencing
//
// Each write comes with a lease: a partition, and the epoch under which its
// caller owns that. No write is committed under a lease that is over. Two
// transactions make sure of that together:
//
//	a group of writes                        a claim
//	lock its partitions, shared              lock its partitions, alone
//	read their epochs, or compare them       read their rows
//	leave out what has another one           raise the epochs
//	write, commit                            commit
//
// The locks are advisory ones, held by the transaction and given back by the
// server when that has ended, one way or the other. They are taken in ascending
// order, so that nobody waits in a circle. The epochs are read by a statement
// after the one that locks: at the isolation level READ COMMITTED, which both
// transactions ask for, that statement sees all that was committed before it
// began, and so before the lock was had. Hence a group and a claim of the same
// partition come one after the other:
//
//   - If the group has its lock first, the claim waits until the group's
//     transaction has ended in the server, be it that its connection is lost and
//     the commit still on its way. The new holder therefore sees all that was
//     written under earlier leases, users, outcomes and outbox, and nothing is
//     added to it.
//   - If the claim has it first, the group reads the epoch that the claim has
//     committed, and its writes are refused with [actor.ErrFenced].
//
// So ErrFenced is certain also where an earlier try of the write ended without
// an answer: that try had ended in the server before the lease was over, and
// the write's identity, which is read after the epochs, tells what became of it.
//
// An owner that hands a partition over makes the next lease itself, for the one who
// is to have it. That raises the epoch, and is done as a claim is.
//
// A release needs no lock. It changes no epoch, and a write that it overtakes is
// one under the last lease, which the next claim waits for. Nor has it to last when
// the server crashes: the claim that builds on it commits after it. But a new epoch
// has to last before anybody acts on it, or another one could be given the same.
//
// Nothing less would do. Where the epoch is compared without a lock, a claim can
// come between the comparison and the commit; so it can where the epoch's row is
// locked FOR KEY SHARE, which an update of the epoch does not wait for. FOR SHARE
// would do, but each group would write to the row and to the log, the claim could
// wait for ever behind groups that overtake it, and nobody could tell who stands
// in its way. Those who wait for an advisory lock are served in the order in
// which they came.
//
// A process that is frozen or cut off in the middle of a transaction holds its
// locks. A claim that deposes such a holder ends its connections, which
// pg_locks names; otherwise the server does so soon, by
// idle_in_transaction_session_timeout or, where half of what was sent has not
// arrived, by TCP keepalives.
//
// # On record
//
// With each change is committed a row of ident_audit: which request changed what,
// without access tokens. Stores that tend the tables (Options.Tends) take turns to make
// the partitions of the days that come, drop those that are over for longer than
// Options.AuditKeep, and index the others. A day without a partition is no
// reason to refuse a write: ident_audit_rest takes what finds none.
//
// # Foreign writes
//
// Other programs may write to the users. Triggers tell of it, also of what is
// replicated from another database, but for sessions with our application name, and
// [Store.WatchForeignWrites] listens.
//
// # Reading
//
// Reads go to the database each time, and so see every write that was answered.
//
// # Out and in
//
// An Exporter reads all users, and an Importer brings users in, over a connection of
// its own, with no lease: it only adds users, as another program might. The format
// between the two is package archive's.
//
// # Plans
//
// The statements that read and write users, requests and notifications as they
// come name rows by keys, and find them by an index. So each is planned once for a
// connection, and such that it reads none of these tables or indexes as a whole,
// however small it was then.
//
// # Secrets
//
// Access tokens, and notifications that hold any, are sealed before they
// become part of a statement, and no error or log line quotes them.
package store
