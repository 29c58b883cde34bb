// Package store keeps the users in PostgreSQL. A [Store] implements [actor.Store], and what a
// member of the cluster needs besides: leases, pending notifications, and the watch for foreign
// writes.
//
// Store composes types that have one concern each. They are packages of their own under
// internal: commit (writes), changelog, reads, leases, outbox, foreign, rekey, userdata (what there is about one user), transfer (export
// and import), and history (a database that went back), over userrows, schema, keyring and
// postgres.
//
// # Writing
//
// Pending writes share transactions (group commit). While one group is being committed,
// the next one fills. A group takes one to three round trips, or four if the cached users
// were out of date, however many writes it has.
//
// Pending writes to one user share a transaction too. Each write decides on what the one
// before it has left, and the user's rows are written once, as the last write leaves them.
// Each write has its own row of the log and its own notification. A write
// does not share a transaction with other writes to its user if its failure would make them
// fail, or if no write can follow it. Such a write gives the user another email or service
// id, or creates or deletes the user.
//
// There are two ways to commit a group.
//
// If users have to be read, it takes two round trips. The first one locks and reads the
// users' rows. Then the writes decide. The second one writes the results and commits. A
// third one stands between them if a patch gives a user another email or service id: it
// finds out whether these have an owner.
// Since a write decides on locked rows, it never overwrites what another program has
// written to the rows of a user or of its services meanwhile.
//
// If each write has its user cached ([actor.Write]'s Cached), creates a user, or is refused
// whatever is stored, it takes one round trip. The writes have decided before. The first
// statement of the transaction checks the preconditions, which is what the decisions
// assume:
//
//   - the leases are valid;
//   - the users' rows have the versions of the cached users; rows that will be changed
//     are locked;
//   - no request was decided before;
//   - the emails and service ids that users are to get have no owners.
//
// The statements that write are in the same round trip, and do nothing unless all
// preconditions hold. If they do not, the group is committed by reading its users, which
// takes two or three round trips more. The version of a row is its xmin, which PostgreSQL sets
// to the id of the transaction that has written the row.
//
// Each transaction also commits a row of the log for each write that was decided. The row has
// the request id and the outcome, so that the request is applied once however often it is sent.
// The row has the change too, so that its notification is sent even if this process dies right
// after the commit.
//
// # Order
//
// A change has a position in its partition and a sequence among the changes of its user. Both
// ascend in the order of the commits, because one transaction at a time writes to a partition. A
// group takes the turns of its partitions before it begins. Writes to a partition whose turn is
// taken wait for a later group. A transaction whose connection was lost may still be under way
// in the server. So each transaction also takes an advisory lock for each of its partitions, the
// order lock. Claims do not take it.
//
// The owner counts positions in memory. After a take-over, and after an attempt that failed, the
// next transaction first reads the last position of the lease, under the order lock. The
// sequence is in the user's row.
//
// If the connection is lost, the outcome of the attempt is unknown. Then a write is
// attempted again until its outcome is known. The recorded request ids tell whether the
// earlier attempt was committed. If it was, its changes are read from the log and notified,
// before the changes of later writes to their users. A write without a request id gets a random
// one.
//
// If a further attempt fails, the earlier one may still be committed, and its notification
// would be found late, behind those of later writes to the user. So the write gives the
// lease up ([actor.ErrFenced]): the claim that follows waits for the earlier attempt, and the
// next holder finds its record and its notification, if there are any.
//
// A record may be in the primary alone: if the server waits for a synchronous standby and
// the wait is cancelled, the transaction stays committed there, and a failover may lose it.
// So a recorded outcome is delivered, and a lease is granted or taken over, only after a
// commit of its own that comes later in the write-ahead log and has been waited for. If the
// transaction has nothing else to write, it writes a message without content
// (postgres.QueueWAL).
//
// What follows an attempt for each pending write is a state machine of its own, package
// internal/commitstate.
//
// # Fencing
//
// Each write comes with a lease: a partition, and the epoch and the member under which the
// caller owns it. No write is committed under a lease that has ended. Two kinds of transaction,
// a group of writes and a claim, lock the same partitions and so guarantee that:
//
//	a group of writes                        a claim
//	lock its partitions, shared              lock its partitions, exclusively
//	take their order locks
//	read or compare their leases             read their rows
//	leave out writes of other leases         raise the epochs
//	write, commit                            commit
//
// The locks are advisory locks of the transaction. The server releases them when the
// transaction has ended, whether committed or rolled back. Every transaction takes them in
// ascending order, so there is no deadlock. The epochs are read by a later statement than
// the one that locks. Both transactions ask for the isolation level READ COMMITTED, at
// which that statement sees everything that was committed before it began, and so
// everything that was committed before the lock was granted. Hence a group and a claim of
// the same partition come one after the other:
//
//   - If the group locks first, the claim waits until the group's transaction has ended in
//     the server, even if the connection is lost and the commit is still on its way. So
//     the new holder sees everything that was written under earlier leases (users and
//     log), and nothing is added to it.
//   - If the claim locks first, the group reads the epoch that the claim has committed. Its
//     writes are refused with [actor.ErrFenced].
//
// After a claim, ErrFenced is also certain if an earlier attempt of the write ended without an
// answer. That attempt had ended in the server before the lease ended. The recorded request id,
// which is read after the epochs, tells whether it was committed.
//
// An owner that hands a partition over makes the next lease itself, for the next holder.
// That raises the epoch, and it locks as a claim does.
//
// A release needs no lock, because it changes no epoch. A write that is committed after
// the release is still one under the last lease, which the next claim waits for. A release
// need not survive a crash of the server either: the claim that builds on it is committed
// after it. A new epoch must survive before any member acts on it. Otherwise another
// holder could get the same epoch.
//
// A failover that loses commits, or a restored backup, breaks that. So the first connection to
// another history of the database raises all epochs before it is used: package internal/history. If
// that should not be enough, the epochs of two holders may be equal, but each epoch of one
// holder belongs to one lease: a member claims beyond the epochs that it has found in the table, and
// its name and start are its own. So the holders are compared too.
//
// A process that is frozen or cut off in the middle of a transaction keeps its locks. A
// claim that deposes such a holder terminates its connections, which pg_locks names.
// Otherwise the server ends the transaction soon: by idle_in_transaction_session_timeout
// or, if only part of a message has arrived, by TCP keepalives.
//
// # The log
//
// ident_log has a table for each day in UTC. Package internal/changelog says how transactions
// find the table of their day, and how the tables are created and dropped. Stores with
// Options.Maintain do that, one at a time. Rows are kept for a day at least, because requests
// may be replayed, and for Options.AuditKeep, because they say which request changed what,
// without access tokens.
//
// # Notifications
//
// After the commit, the store passes each notification to its sink. The column notified of
// ident_partitions is a cursor: the changes of the partition up to this position were notified,
// except those of the users in ident_held_back. Package internal/outbox moves it each second, and
// when a lease ends. The next owner reads what lies behind it.
//
// A notification with access tokens is encrypted in ident_sealed until the cursor has passed
// it. All other notifications are made from the log.
//
// # Changes
//
// [Store.Changes] reads the log from a position on, which consists of a position in each
// partition. No change is missed, since later changes of a partition have greater positions. The
// column pruned of ident_partitions says up to which position changes may have been dropped. An
// earlier position is refused. So is one that the database has lost, which ident_lost tells, and
// one of an epoch that the partition has not reached: the database is another one.
//
// # Foreign writes
//
// Other programs may write to the users. [Store.WatchForeignWrites] notices that, so that
// the process can stop trusting its cached users. Package internal/foreign says how.
//
// # Reading
//
// Each read goes to the database, and so sees every write that was answered. Look-ups that
// arrive at the same moment share a round trip.
//
// # Export and import
//
// An Exporter reads all users, and an Importer adds users. Each uses its own connection and
// needs no lease, because an import only adds users, as another program might. Package
// archive has the format.
//
// # Plans
//
// Each statement on users is planned once per connection, and each statement on the log once per
// connection and day. The tables may grow a thousandfold afterwards without the planner noticing.
// So no plan may be good only for small tables, whatever the statistics say. Three rules make
// that certain:
//
//   - Sequential scans are disabled for the connections.
//   - A statement compares a column with an array (id = ANY($1)), or looks each key up in a
//     subquery of its own, which OFFSET 0 or its place as a value keeps from becoming a join. A
//     join could read a whole index for each key.
//   - The conditions of a look-up match the columns of one index only. Otherwise the planner
//     may choose another one, of which it would read everything: all indexes of an empty
//     table cost the same. sv_name::text hides a column that is in two indexes.
//
// A list is planned each time, because its best plan depends on the words of the search. The
// table of partitions is small: its size is a setting. TestPlans looks at the plans of all
// statements before and after such growth.
//
// # Secrets
//
// Access tokens, and notifications that contain any, are encrypted before they become part
// of a statement. No error and no log line quotes them.
//
// # Design decisions and what they cost
//
//   - services has the primary key (user_id, sv_name), in the other order than in the Python
//     service's tables. With the old order, a look-up by user could be planned as a search of
//     the whole primary key. Rekey, which needs the old order, has an index on an expression
//     that no other statement can use.
//   - The epoch is checked under a lock, and not merely compared: a claim could come between
//     the comparison and the commit, and a stale write would land. The price is one
//     statement in each transaction, and that a claim waits for the transactions under way.
//   - That lock is advisory, and not one of the epoch's row. FOR KEY SHARE is not enough: an
//     update of the epoch does not wait for it, and a stale write lands. FOR SHARE would
//     be enough, but each group would write to the row and to the write-ahead log, a claim
//     could wait forever behind groups that overtake it, and no member could tell which
//     connection is in its way. Advisory locks are granted in the order of the requests.
//   - A group waits up to 25 ms for the one before it, instead of being committed beside it. So
//     what arrives meanwhile makes one group and not several small ones, each of which
//     costs the database as much as a large one. The price is latency: a write may wait
//     for the group before it.
//   - Cached users save a round trip and the reading of rows. The price is a check of versions
//     in each transaction, and an attempt in vain whenever a precondition does not hold.
//   - Rows that another transaction has locked are skipped, not waited for, so that one user
//     does not delay a group. The price is that its writes are attempted again every 5 to
//     250 ms, and wait that much longer than needed.
//   - Constraints of the tables keep emails and service ids unique. They are checked before the
//     commit too, only so that a conflict refuses one write instead of failing the group.
//     If another transaction is faster between the check and the commit, the group fails,
//     and each pending write is attempted again in a transaction of its own.
//   - An attempt is abandoned only before it begins. A caller that cancels waits up to 10 s for
//     the end of the attempt. To return earlier would leave an unknown outcome.
//   - An attempt that takes too long is cancelled, even if its commit only waits for a standby.
//     So the server has its connection and its locks back. The price is that the commit
//     stays in the primary, where reads see it although its write has no reply yet, and that
//     each replay writes to the write-ahead log. To close only the socket would leave a
//     connection of the server and its locks waiting with each attempt, until new
//     connections are refused.
//   - A write that got no connection is not of unknown outcome: nothing was sent. It is
//     attempted again as if nothing had happened, for 20 s.
//   - Reserved user ids save a create one round trip. They are drawn by the transactions of
//     earlier creates, and those that a refused create or a replay has not used are returned.
//     Without a reserved id, one is drawn only if the create is no replay and wants nothing that
//     another user has. The price is a gap in the ids at the end of each series of creates.
//   - A user id is returned only if the create was decided under its request id, in the first
//     delivery. So no other delivery uses the id while the record is kept. If one should do so
//     later, the primary key of users lets one create have it, and the other gets another id.
//   - Reads do not use cached users, although the process has them. Another member may have
//     written since, and a read shall see each write that was answered. The price is one
//     round trip for each read, which concurrent look-ups share.
//   - A page of a list is cut at 4 MB, because its reply must be one message. The price is
//     that clients cannot count on full pages.
//   - An export is not a snapshot of one moment: that would keep the database from vacuuming
//     for hours. The price is that two users may be exported in states that never existed
//     together.
//   - An import takes no leases, because partitions would be without a holder meanwhile. The
//     price is that the members see it as a foreign write and do not trust their caches
//     until 30 s after it.
//
// The packages internal/leases, internal/outbox, internal/changelog, internal/foreign,
// internal/history and internal/rekey list the decisions on their concerns.
package store

import "embed"

// Documents are Markdown files about the package, by their names in its folder.
//
//go:embed DATA.md
var Documents embed.FS
