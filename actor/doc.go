// Package actor is the domain of the service: what a user is, what each
// operation does to a user, and the actor that runs a user's operations in order.
//
// # What it is for
//
// [Parse] turns the body of a message into a [Request]: a get, a list or a [Write].
// [Write.Decide] computes what a write does to a user. [UserReply], [PageReply],
// [ErrorReply] and [Write.Reply] encode what the caller gets. A [Notification] is what
// subscribers get.
//
// A [Partition] does the work for the users of one partition. It starts an actor
// for each user that has work. An actor is a mailbox (a queue of that user's reads and
// writes) and one goroutine, which exists only while the mailbox has tasks. Actors of
// different users run in parallel.
//
// # What it promises
//
//   - Order. One user's writes are decided and committed in the order in which
//     [Partition.Write] was called. Each write is decided on the state that the write
//     before it left behind.
//   - Read your writes. A read sees every write that was answered before the read began.
//     A read that is in the mailbox also sees every write that is before it there.
//   - Bounds. A mailbox holds a limited number of tasks. Requests from the partition
//     queue ([Write].FromQueue, [Partition.GetFromQueue]) are exempt, because the
//     consumer's prefetch limits their number.
//   - One callback per task. It is called exactly once, also when the partition stops
//     or loses its lease.
//   - Group commit. Writes that wait in one mailbox go to the [Store] together. The
//     store decides how many of them it commits in one transaction.
//
// # The cache
//
// A [Cache] keeps users in memory, already encoded as the reply to a get. These
// invariants make it safe to answer from the cache:
//
//   - Invariant: all writes to a user go through one Partition while the lease is
//     valid. Its actor updates the cache before it calls any callback.
//   - Invariant: a partition that is drained, stopped or fenced neither reads from
//     the cache nor adds to it.
//   - Invariant: after [Cache.SetTrusted](false) nothing is answered from the cache,
//     and no result of a query that began before that call is ever added to it. The user
//     of this package must call it when another program has written to the tables.
//   - Invariant: a reply is made from the cache only while the partition's read lease
//     stands ([partition.ReadLease]), since another owner may have written otherwise. Reads
//     behind a write are replied to with what that write has left: they came before it
//     was committed.
//   - If the outcome of a write is not known, the user is evicted and read again.
//
// # Decisions
//
// [Write.Decide] is a pure function of the stored user. The [Store] calls it in one
// of two ways. Either it locks and reads the user's rows, and decides inside the
// transaction. Or it decides before the transaction, on [Write].Cached, and the
// transaction changes nothing unless the stored rows still have that version. Therefore
// no write is ever decided on a state that another program has changed in the
// meantime.
//
// # What it leaves to others
//
// The package knows neither RabbitMQ nor SQL. Package store implements [Store].
// Package cluster claims leases, routes requests to the right partition, and makes sure
// that an instance that may have lost a lease without noticing answers nothing.
package actor
