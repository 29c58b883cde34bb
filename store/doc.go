// Package store keeps the users in PostgreSQL. It fulfils [actor.Store].
//
// # Writing
//
// Writes that wait at the same moment share a transaction (group commit), which
// takes two round trips however many they are: the first locks the users' rows,
// the second writes what the writes have decided, and commits. Since a write
// decides on rows that are locked, what another program has written meanwhile,
// to the row of a user or of its services, is never overwritten unseen.
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
// its writes are tried again one by one.
//
// After a commit whose outcome is unknown, because the connection was lost,
// the write is tried again until it is known: its identity tells whether it was
// applied.
//
// # Reading
//
// Reads go to the database each time, and so see every write that was answered.
//
// # Secrets
//
// Access tokens, and notifications that hold any, are sealed before they
// become part of a statement, and no error or log line quotes them.
package store
