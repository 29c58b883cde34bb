// Package actor says what a user is and what can be done to one, and does it:
// it reads requests, decides what they make of a user, words the answers and
// the notifications, and runs an actor for each user who has work.
//
// A [Partition] does the work of the users of one partition. A user's actor is a
// mailbox, bounded but for what the partition's queue bounds, and, while there is
// work in it, a goroutine. It serialises what concerns its user: each write decides on
// what the one before has left, and a read sees what the writes before it have left.
// What waits is given to the store at once, which may commit several writes together;
// the next ones are begun when these are answered. The actors of different users run
// side by side.
//
// # Warm users
//
// A [Cache] keeps users in memory, worded as the answer to a get. It rests on
// this: all writes to a user of a partition, from when the lease began
// until it ends, come through the one Partition, whose actor puts what it has
// committed into the cache before it tells anybody. So a user who is warm is as
// the last answered write has left him, as long as
//
//   - the lease is good. When the store says that it is over, or the partition is
//     finished or stopped, nothing is answered from the cache any more. While an
//     instance does not know yet that it has lost a lease, it must not be able to
//     answer at all: that is left to package cluster.
//   - no other program writes to the tables. When one does, somebody has to call
//     [Cache.SetTrusted] with false. What the store was asked before that moment is
//     not kept after it.
//
// Where a write's outcome is not known for sure, the user is forgotten and read
// again.
//
// # Decisions
//
// What a write does is a pure function of the user as stored ([Write.Decide]).
// The [Store] calls it either inside the transaction that has the user's rows
// locked; or, where the user is warm, before it, with the user whom the actor
// knows, and the transaction then writes nothing unless the rows are of the
// version that is known. So what another program has changed meanwhile is never
// decided upon unseen.
//
// The package knows neither the broker nor SQL.
package actor
