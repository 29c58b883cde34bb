// Package cluster makes one service of N equal instances. An instance receives requests
// from RabbitMQ, brings each to the instance that may carry it out, and sends replies and
// notifications. There is no leader that requests wait for.
//
// # The way of a request
//
//	caller ──▶ glotpod.rpc/ident ──▶ any instance: router
//	                                  │ reads: carried out there
//	                                  │ writes: to their user's partition
//	                                  ▼
//	caller ──▶ glotpod.ident ──▶ glotpod.rpc/ident/0042 ──▶ its owner: actor ──▶ database
//	           (consistent hash)
//
// User ids are divided into partitions ([partition.Of]). Each partition has a queue, which
// one instance at a time consumes: the partition's owner. The owner runs an actor for each
// user with requests. A caller that knows the user's id may publish to the direct
// exchange, which leads to the user's partition. All other requests go to the shared
// queue, which every instance consumes as a router. The router reads from the database, or
// passes the request to the actor if it owns the partition. Otherwise it relays a write to
// the owner, in a batch with others, and acknowledges it when the owner has reported that it is complete.
// If that takes too long, or the owner does not accept it, it forwards the write to the partition's
// queue, and acknowledges it when the broker has confirmed the copy.
//
// Each request from a partition's queue is checked. The exchange may lose the order of its
// queues; then requests reach the wrong queues and are forwarded from there, while one
// instance binds the queues again. So routing is never wrong, only sometimes longer.
//
// The reply follows the commit, and the acknowledgement follows the reply. So a request
// that the broker considers done has been replied to, and any other is delivered again. A
// write that was replied to and not acknowledged gets the same reply again.
//
// # Ownership and sessions
//
// Package ownership decides which partitions an instance claims and hands over, and a
// coordinator carries that out: with package membership, by which the instances know each
// other, and with the epoch table in the database. Each write checks the epoch of its
// lease, so an instance that has lost a lease without knowing it cannot write.
//
// Everything between connecting and losing the connection is one session. Nothing of it is
// kept for the next one: requests that were not acknowledged are delivered again.
//
// # Packages
//
//   - client, internal/rpc: the Go client for callers.
//   - broker: connecting to RabbitMQ, and filtering what would cost the connection.
//   - membership: the members, their heartbeats and reports.
//   - ownership: the decisions about partitions, without I/O.
//   - partition: how user ids and routing keys map to partitions.
//   - internal/coordinate: the coordinator.
//   - internal/generation: the store as an instance in one generation of partitions sees it.
//   - internal/repartition: changing the number of partitions while requests come.
//   - internal/consume: consumers of queues, and their acknowledgements.
//   - internal/notify: sending notifications.
//   - internal/publish: publishing, over channels that are opened again.
//   - internal/sizes: how large messages may be.
//   - internal/topology: declaring and binding exchanges and queues.
//   - internal/tracing: trace contexts in the headers of messages.
//   - internal/metrics: what an instance counts and measures.
//   - internal/readlease: renewing what allows to read users from memory.
//   - internal/relay: requests from the instance that receives them to their owner.
//   - internal/seal: the sealed ids and callers in the headers of forwarded requests.
//   - internal/integration: tests over a real broker and a real database.
//   - internal/batchqueue, wait, throttle, tracelog: small helpers.
//
// # Invariants
//
// Each invariant is followed by the tests that hold it. A test checks that they exist.
//
// I1, one writer. A partition's writes come from one lease at a time: each transaction
// checks the epoch and the holder of its lease. No epoch, position or user id that an instance has
// seen is given again, even if the database loses commits.
//
//	store.TestFence/random_owners
//	store.TestFence/a_lesser_fence_lets_a_stale_write_land
//	cluster/ownership/sim.TestHistories
//	cluster/ownership/sim.TestMissingFence
//	cluster/ownership.TestTableBehind
//	store.TestFence/lost_commits
//	store/internal/generations.TestEnded
//	store/internal/generations.TestModel
//	cluster/internal/generation.TestView
//	store/internal/history.TestFailover/lost_commits
//	store/internal/history.TestRestore
//	cmd/systemtest/faults.TestLostCommits
//	cluster.TestPartitionQueue/requests_are_left_when_the_lease_is_lost
//
// I2, applied once. The request id and the reply are recorded, in the log, in the transaction
// that applies the request. A replay gets the recorded reply, once the synchronous standbys of
// the database have the record too. The instance that receives a write without a request
// id gives it one, which goes along when the write is forwarded. A request id of reply_to
// and correlation_id identifies a request for ten minutes, or if the broker delivers the
// request again.
//
//	store.TestReplays
//	store/internal/commit.TestSynchronousStandby
//	store.TestModel
//	cluster/internal/consume.TestAcks
//	cluster.TestReply/is_sent_once_and_acknowledged
//	cluster.TestRequestID
//	cluster.TestCopyRequest
//	cluster.TestFirstReceived
//	store/internal/schema.TestMigrateToLog
//	store.TestReusedRequestID
//	cmd/systemtest/contract.TestForwardedTwice
//	cmd/systemtest/contract.TestReusedCorrelationID
//
// I3, in order. The requests about one user take effect in the order of its partition
// queue. What the router forwards or relays keeps the router's order per user. Of a queue that is not
// available while the partitions change, requests may come later than ones that were sent after them.
//
//	cluster/internal/relay.TestOrder
//	actor.TestModel
//	cluster.TestSpilledWrites/stay_in_order
//	cluster.TestLane
//	cluster.TestForwarder/a_returned_request_does_not_follow_later_ones
//	cluster/internal/consume.TestBacklogKeepsItsOrder
//	cluster.TestHandOver/ends_the_lease_after_the_last_request
//	cluster/internal/integration.TestRepartition/while_requests_come
//	cluster/internal/integration.TestRepartition/a_failure_at_each_step
//	cluster/internal/repartition.TestHistories
//	cmd/systemtest/faults.TestRepartition
//
// I4, no stale read. A read that begins after the reply to a write shows that
// write. Users are read from memory only under a read lease: the database has said a moment
// ago that the lease of the partition stands. A member that deposes another one commits nothing
// until the read lease of that one has ended. So this rests on the database and on
// clocks of about the same rate, whatever the broker or another member does.
//
//	actor.TestCache
//	actor.TestModel
//	actor.TestReadLease
//	cluster/partition.TestReadLease
//	cluster/internal/readlease.TestRenewer
//	cluster.TestReadLeases
//	cluster.TestStartServing/waits_for_the_reads_of_a_deposed_holder
//	cluster/internal/coordinate.TestReleases/wait_for_the_reads_of_a_deposed_holder
//	cluster/ownership.TestDeposedReads
//	cluster/ownership/sim.TestHistories
//	cluster/ownership/sim.TestMissingWait
//	store/internal/leases.TestEnded
//	cmd/systemtest/faults.TestReadLease
//	cmd/systemtest/contract.TestGetMany
//	cluster.TestAbandon/reads_nothing_from_memory_afterwards
//	cluster.TestHeartbeat/lost_ends_the_session
//
// I5, notified. Each commit is notified at least once, in the order of each user's
// changes. A subscriber that was away reads each change that it has missed from the log, exactly
// once and in the same order. If the log does not have all of them, the subscriber learns that.
//
//	cluster/internal/notify.TestProgress
//	store/internal/generations.TestNotNotified
//	cluster/internal/integration.TestRepartition/given_up
//	store/internal/outbox.TestCursor
//	store/internal/outbox.TestFirstDay
//	store/internal/outbox.TestFlush
//	store/internal/outbox.TestPage
//	actor.TestMessageID
//	store.TestUnknownOutcome/the_caller_is_gone
//	store/internal/reads.TestChangesModel
//	store/internal/reads.TestChanges/position_gone
//	store/internal/reads.TestChanges/position_of_a_lost_epoch
//	store/internal/history.TestFailover/nothing_lost
//	store/internal/reads.TestChanges/while_others_write
//	actor.TestChangesAppliedTwice
//	cmd/systemtest/contract.TestChanges
//	cluster/client.TestWatchModel
//	cluster/internal/notify.TestRefused
//	cluster/internal/notify.TestMissed
//	cluster/internal/notify.TestPass
//	cluster/internal/notify.TestRelease
//	cluster/internal/notify.TestLostConnection
//	cluster/internal/integration.TestNotifications
//	cmd/systemtest/users.TestMigrate/schema_13
//	actor.TestNotificationOf
//	cmd/systemtest/contract.TestNotification/kept_by_the_log
//	store.TestUnknownOutcome/the_attempt_blocks_its_repetition
//	cluster.TestStartServing/reports_a_lease_that_is_not_held
//
// I6, foreign writes. Another program may write to the tables. A cached user is neither
// served nor overwritten after that is noticed.
//
//	store/internal/foreign.TestTrust
//	store.TestModel
//
// I7, bounded. No mailbox, map, queue or body grows without a limit that the settings or
// a constant name, in number and in bytes.
//
//	cluster.TestSharedQueue/bodies_in_flight_are_bounded
//	cluster/internal/consume.TestReceive
//	cmd/systemtest/faults.TestSharedBroker/large_bodies
//	cluster/internal/coordinate.TestPost
//	cluster/internal/consume.TestPool/idle_channels_are_limited
//	actor.TestMailbox
//	cluster/internal/notify.TestSend
//	cluster/membership.TestSendQueue
//	store/internal/outbox.TestForget
//	cluster/client.TestUnderWay
//
// I8, bulkheads. What one message, user, queue, subscriber, partition or broker node does
// wrong costs only its own requests. Each wait has a bound, and it is decided what happens
// then.
//
//	cluster.TestForwarder/an_overdue_partition_costs_its_own_requests
//	cluster/internal/integration.TestSharedQueue/nodes
//	cluster/internal/integration.TestSharedQueue/deleted
//	cluster/internal/consume.TestKeeper
//	cluster/internal/consume.TestPreference
//	cluster/internal/publish.TestPublisher/a_message_that_is_too_large_costs_itself
//	cluster/internal/publish.TestPublisher/a_silent_queue_delays_its_own_messages
//	cluster/internal/integration.TestSilentQueues/a_partition_queue_costs_its_own_requests
//	cluster/internal/integration.TestLargeMessages/a_reply
//	cluster/internal/integration.TestLargeMessages/a_notification
//	cluster/internal/integration.TestLargeMessages/a_stored_notification
//	cluster/internal/integration.TestLargeMessages/the_limit_is_lowered
//	cluster/membership.TestSend/a_silent_queue_delays_no_other_member
//	cluster.TestSharedQueue/a_panic_costs_one_request
//	cluster.TestReply/to_a_name_that_costs_the_connection_is_dropped
//	cluster/broker.TestFilter
//	cluster/membership.TestHostilePublisher
//	cluster/internal/integration.TestDeliveryLimit
//	cmd/systemtest/faults.TestSharedBroker/queue_kinds
//	cluster/internal/integration.TestConnections
//	cluster.TestDatabaseHealth/refused_for_long
//	store/internal/reads.TestManyLists
//	store/internal/postgres.TestRefusedConnections
//	store/internal/postgres.TestSeveralServers
//	cmd/systemtest/faults.TestLostHost
//	cmd/systemtest/faults.TestClusterChaos
//
// # Design decisions and what they cost
//
//   - A queue per partition, with one consumer. It keeps the order of a user's requests
//     across hand-overs and crashes without a protocol of our own. Cost: the number of
//     partitions is limited by the broker's limits on channels and queues, and each
//     hand-over takes a consumer cancellation and a start.
//   - Writes go from the router to the owner in transient batches, over one queue for each
//     instance. The partition's queue, persistent and confirmed, takes what gets no report. So a
//     frozen owner loses nothing, and costs its partitions a fifth of a second once. Why not the
//     partition's queue alone: each write would take the broker two queues and a confirmation, which was
//     the largest part of its work. Cost: the two ways must not overtake each other.
//   - A router changes from the partition's queue to batches when a message that it has put
//     into the queue is answered, and holds requests meanwhile. So it does not have to remember
//     which users have requests in the queue. Cost: a fault moves all users of the partition
//     to the queue for a moment.
//   - Under load one instance asks the broker for all requests of the shared queue, by the priority
//     of its consumer. With N instances, N-1 streams of relayed requests are left of N·(N-1), so that more
//     requests share a message and a group commit. Why not always: while there are few requests,
//     nothing is gained, and a frozen instance would get all of them. Why not elect the instance: the
//     broker does so, and a wrong decision costs speed only. Cost: the instances do not have
//     equal loads.
//   - A channel for each partition to which requests are forwarded. RabbitMQ handles
//     nothing on a channel while the leader of a quorum queue does not reply to the first
//     message on it, and stops reading from the connection while 32 messages are
//     unconfirmed. Why not one channel for all: one silent queue would stop it. Cost: up
//     to as many channels per instance as there are partitions.
//   - Ownership by lease and epoch in the database, not by a consensus protocol. The
//     database is needed for each write anyway, and its fence makes wrong suspicion
//     harmless. Cost: claims wait for the database.
//   - Reads from the shared queue are carried out by any instance from the database. Why
//     not forward them: a forward costs more than the read. Cost: they do not use the
//     owner's cache.
//   - A session has three connections. The broker stops reading from a connection while
//     a queue takes in too little of what comes over it. So forwarded requests have one,
//     and notifications, which go to queues of others, have one. Replies go over the
//     consuming one, since a member that the broker has dropped must not reply (I4). Cost:
//     three times as many connections.
//   - A forwarded request carries its caller's login, sealed together with the request and its
//     reply queue: the broker compares the property user_id with the publisher's login,
//     which is the instance's. Why not with the body alone: a copy of the message could be
//     sent again for a reply to another queue. Cost: a forward by the queue of a partition
//     takes an HMAC if the caller tells its login.
//   - A forwarded request carries the time at which it was first received, by the clock of
//     the instance. So a copy is known as the same request however long it waits. Why not
//     ask the database for the time: an instance that only forwards has no other reason to
//     ask it. Cost: a clock that is wrong by minutes changes how long a correlation id
//     counts by as much.
//   - The callers of the shared queue take turns: while several ask, none has more than a quarter of
//     the requests under way. A caller that floods is held back while others ask often: it has a sixteenth
//     under way, and rests after each of these bursts for eight times as long as it took. With that, the 99th
//     percentile of the others is about twice as high as without the flood; without the rest
//     it is five times as high, since the small groups of requests keep all processors busy. Why not
//     hold back each caller that has more than others: one that does not wait for replies would never
//     work off what a pause has left. Cost: a caller that has twice its quarter or more in an instance all the
//     time has a tenth of its rate while another one asks often, and one that does not wait for replies may
//     wait some seconds longer, once, if it has its quarter because the database is slow. Why not refuse
//     what is too much: callers of the service before this one know no such error, and a long queue after
//     an outage would be refused too. Cost: what the broker has not delivered yet is in one order, so a backlog of one caller of more than
//     2,048 requests for each instance keeps the others waiting until it is shorter. A caller beside which
//     another one asks now and then has a quarter of the limit too, so its requests share fewer commits.
//   - The prefetch count of a queue follows the size of its bodies, by consumers that follow
//     one another. Why not the protocol's prefetch size: RabbitMQ has none. Why not a low
//     count from the start: it would slow small requests down, which are usual. Cost: the
//     first large bodies are sent twice.
//   - Acknowledgements wait up to 50 ms and are sent together. A quorum queue handles many
//     at the cost of one. Cost: after a crash more requests are delivered again, which are
//     replays.
//   - Nothing is kept from one session to the next. Why not resume: what the broker
//     delivers again is the truth, and half of a state is the source of most errors. Cost:
//     after each lost connection all partitions are claimed again.
//   - Notifications are sent by the process that commits, and from the log only if
//     something was left there. Why not always from the log: polling adds latency and
//     load. Cost: two paths, which have to keep the order together: a partition uses one
//     of them at a time.
//   - Nobody waits for a subscriber: what the broker refuses or does not confirm is left to
//     the log, and one notification for each routing key finds out when it is taken
//     again. Why not drop it: I5. Why not send it again and again: each attempt reaches the
//     other subscribers too. Cost: while one queue refuses, the other subscribers do not
//     get what is held back, and days of the log that have it are not dropped. While a quorum
//     queue is silent, no subscriber gets the notifications with its routing key.
//   - What was notified is a position per partition in the database, which the owner writes each
//     second and when it hands the partition over. Why not a row for each notification that is
//     deleted once it is confirmed: each write would pay for an insert and a delete. Cost:
//     after a crash or a lost session, the notifications of up to a second are sent again. They
//     have the same message ids and sequences. Only the notifier knows what is confirmed: the store asks it
//     for the position, and for the users whose notifications the position has passed.
//   - A hand-over does not wait until notifications are confirmed, and a take-over does not
//     wait until those in the log are sent. Cost: the next owner repeats what was
//     accepted and not yet confirmed.
//   - The broker's max_message_size is measured, since the broker tells it only by closing a
//     channel: a message of the size in question, rounded up to a power of two, goes to no
//     queue first. So no reply has to be sent on a channel of its own, and a write whose
//     notification cannot be sent is refused before it is made. Why not measure the largest
//     possible message at the start: 64 KiB are sent instead of many megabytes for each
//     session. Cost: the first message of some size waits for a round trip, inside
//     a transaction if it is a notification.
//   - Users are read from memory under a read lease of 0.3 s. Why not as long as the session
//     lasts: in a split between its nodes, the broker keeps the connection of an instance that
//     it reports as gone to the others. Why not ask the database in each read: that is half of
//     what a read costs. Cost: an instance whose users are read from memory asks the
//     database up to five times a second, in one statement for all its partitions. The first
//     read after a pause goes to the database, and so do all reads while it is slow. After
//     a death, the partitions are served 0.375 s later; reads from the shared queue go to the
//     database meanwhile. No report of a death shortens that, since a split looks the same: an
//     instance does not wait only for itself.
//   - The end of the shared queue's consumer does not end the session. Why not begin anew:
//     the partitions do not need that queue, and its node may be down for long. Cost:
//     an instance may serve direct requests alone; then it is not ready.
//   - The consistent-hash exchange is optional and never trusted: each delivery is checked.
//     Why not compute the queue in the client: clients in other languages would need the
//     same function. Cost: a misrouted request is forwarded once. The broker's list of
//     bindings is not trusted either: one instance sends probes through the exchange.
//   - The type of the partition queues is chosen when the first instance of a cluster starts:
//     quorum if connections lead to several nodes, else classic. Why not always quorum: with
//     one node it logs each request for nothing, which takes the broker twice the work. Why not
//     ask the broker: AMQP has no method for it. Cost: an address that leads to another
//     node only when the first one has stopped must be known to the operator.
//   - A shared queue that exists is used whatever its kind, and a request that it may drop is
//     copied. Why not insist on one kind: mirrored and quorum queues survive the loss of a
//     broker node. Cost: a copy for each request that came back three times.
//   - A database that only refuses new connections counts as out of reach, and the session
//     goes on over those that are open. Why not end it: other members are likely to be
//     refused too. Cost: an instance that has too few connections serves slowly until it
//     ends.
//   - A repartition stops all instances for a second or two, as if each was asked to end, and moves the
//     old queues to new ones under other numbers. Why not move one partition after another: a user
//     would belong to partitions of two kinds, and each request would have to know which. Why
//     not reuse the numbers: what is late of an old partition would be taken for a new one's. Cost: all
//     requests wait, and a cluster has numbers for a few repartitions.
//   - While the broker blocks publishing, nothing is decided: missing heartbeats are not
//     the members' fault then. Cost: a member that dies meanwhile is noticed later.
package cluster

import "embed"

// Documents are Markdown files about the package, by their names in its folder.
//
//go:embed HOW.md PROTOCOL.md
var Documents embed.FS
