// # Glossary
//
//   - abandon: to stop serving a partition at once, without handing it over.
//   - actor: what carries out one user's requests, one after another.
//   - attempt: one try of something that may be tried again.
//   - cache: the users in memory; a user in it is cached.
//   - claim: to take a partition's lease by raising its epoch.
//   - consumer: the channel that consumes a queue.
//   - coordinator: what passes events to the ownership core and carries out its commands.
//   - depose: to claim a partition that another member holds.
//   - direct exchange: glotpod.ident, which leads to partition queues by user id.
//   - drain: to hand over all partitions and stay out of the ring.
//   - epoch: the number of a lease; each claim raises it.
//   - error reply: a reply with an error code instead of a result.
//   - fence: the check of the epoch in each write transaction.
//   - foreign write: a write to the tables by another program.
//   - forward: to send a request on to its partition's queue.
//   - generation: the partitions that there are until a repartition; the next ones have other
//     numbers and queues.
//   - group commit: one transaction with the writes of several users.
//   - hand over: to finish a partition's requests and end its lease for the next owner.
//   - held back: said of notifications that are left to the log because one of the user was
//     refused.
//   - incarnation: one session of one run of an instance.
//   - instance: a running process of the service.
//   - lease: the right to write to the users of one partition ([partition.Lease]).
//   - log: the table of the requests that were decided, with the changes that they made.
//   - mailbox: the requests that wait for one actor.
//   - member: an instance in the cluster.
//   - misrouted: said of a request that the direct exchange has put into another
//     partition's queue, or had no queue for, so that it came to the shared queue.
//   - mover: the instance that carries a repartition on.
//   - outbox: what stores which changes of the log were notified, and reads the others.
//   - overdue: said of a partition if the broker does not confirm forwards to it, and of a
//     notification that was not sent in time.
//   - owner: the member that holds a partition's lease.
//   - partition: a part of the user ids, with a queue.
//   - pending notification: one that was sent and is not confirmed.
//   - position: the place of a change in the order of its partition.
//   - read lease: what allows to read the users of a partition from memory
//     ([partition.ReadLease]).
//   - rebind: to bind all partition queues again, in order.
//   - relay: to send a request to its owner without the partition's queue.
//   - repartition: the change to another number of partitions, or another type of their queues.
//   - replay: a request that was decided before.
//   - reply: what the caller gets.
//   - request: a message that asks for an operation.
//   - request id: what identifies a request.
//   - ring: the hash ring that assigns partitions to members.
//   - router: the part of an instance that consumes the shared queue.
//   - sequence: the number of a change among those of its user.
//   - serve: to consume a partition's queue and run its actors.
//   - session: the work of an instance from connecting to losing a connection.
//   - settled: said of an instance that serves the partitions that the ring assigns to it.
//   - shared queue: glotpod.rpc/ident, which all instances consume.
//   - spilled: said of a write that went to the partition's queue because its user's mailbox
//     was full.
//
// # Tuning constants
//
// All durations and limits of packages cluster, actor and store, and of those below them,
// with the reason for each value. A test compares the table with the code. Counts are
// without a unit, sizes in bytes. What an operator may have to change is a setting instead.
//
//	actor.MaxEmailBytes = 2600                                               a B-tree entry of the unique index on emails holds 2,704 bytes
//	actor.MaxPageSize = 1000                                                 a page of usual users is some 200 KB; more would delay other reads
//	actor.MaxUserID = math.MaxInt64                                          the largest id that the column of the users table holds
//	actor.maxBatch = 64                                                      writes of one user passed to the store at once; more gain little
//	actor.maxShards = 64                                                     more shards than cores of any machine in sight, so that locks are rarely contended
//	actor/msgpack.maxExactFloat = 1 << 53                                    a float64 holds all integers up to it exactly
//	cluster.awaitEvery = 20 * time.Millisecond                               a session starts at most this much after the database is back
//	cluster.closeTimeout = time.Second                                       closing must not delay the next session
//	cluster.confirmTimeout = 5 * time.Second                                 a quorum queue elects a leader in less; longer waits use up the limits on requests in flight
//	cluster.minBetweenChanges = 10 * time.Second                             a cause that ends each session must not go on for ever
//	cluster.maxReconnectDelay = 250 * time.Millisecond                       spreads the dials of instances that lose their broker node together
//	cluster.connectTimeout = 8 * time.Second                                 covers TCP, TLS and login on a slow network
//	cluster.consumeEvery = 50 * time.Millisecond                             short beside a hand-over, long beside the broker's reply
//	cluster.consumeFor = 2 * time.Second                                     longer than the broker takes to drop a consumer that was cancelled
//	cluster.consumingHeartbeat = time.Second                                 the protocol's least; the broker drops a frozen instance after two to three of them
//	cluster.droppedReplyEvery = 10 * time.Second                             callers can cause any number of these log lines
//	cluster.evictTimeout = time.Minute                                       longer than the broker takes to drop a frozen connection
//	cluster.heartbeatsLost = 3                                               of the broker; this side closes a silent connection after half of that
//	cluster.laneIdleFor = time.Minute                                        opening a channel again takes milliseconds
//	cluster.laneReopenAfter = 2 * time.Minute                                RabbitMQ waits 65 s for the leader of a quorum queue
//	cluster.malformedEvery = time.Minute                                     clients can cause any number of these log lines
//	cluster.maxDeathsRead = 8                                                more queues than a message passes through before it comes back
//	cluster.maxOutage = 6 * time.Second                                      longer than a failover that keeps connections, shorter than a caller's patience
//	cluster.maxReturns = 3                                                   RabbitMQ 4 drops a request after 20 deliveries; a copy per three lost sessions costs nothing
//	cluster.maxStampAge = 24 * time.Hour                                     an older stamp is from a wrong clock
//	cluster.maxUnconfirmed = 31                                              RabbitMQ stops reading from a connection with 32 that a quorum queue has not confirmed
//	cluster.maxUnsettled = 10 * time.Second                                  partitions move one after another, which takes some seconds in all
//	cluster.measureEvery = time.Second                                       the resolution of the rates and of the checks
//	cluster.namelessEvery = 10 * time.Second                                 callers can cause any number of these log lines
//	cluster.notRelayedEvery = 30 * time.Second                               it may last, and its cause may change
//	cluster.partitionPrefetchShare = 8                                       many partition queues share the memory that the shared queue has alone
//	cluster.pingEvery = time.Second                                          bounds how long an outage goes unnoticed without requests
//	cluster.pingTimeout = 5 * time.Second                                    longer than a loaded database takes to reply
//	cluster.refusedFor = 3 * time.Second                                     a server that is full for a moment must not end all instances
//	cluster.relayPrefetch = 16                                               more gain little; a message of a hostile client may be as large as the broker accepts
//	cluster.relayReopenAfter = time.Second                                   a queue that cannot be consumed must not loop
//	cluster.requeueDelay = time.Second                                       a request that cannot be replied to must not loop
//	cluster.senderGroups = 128                                               two callers seldom share a group, and one with many names leaves a 129th to each of the others
//	cluster.settleEvery = 10 * time.Millisecond                              hardly delays the start
//	cluster.settleFor = 3 * time.Second                                      a cluster without trouble hands over the first partitions in less
//	cluster.sharedLostEvery = 10 * time.Second                               each attempt to consume the shared queue again may fail
//	cluster.silentAfter = time.Second                                        a queue confirms within milliseconds; what waits uses up the limits on requests in flight
//	cluster.slowConsume = 10 * time.Second                                   a queue without a leader takes that long; less is usual
//	cluster.stuckAfter = 10 * time.Second                                    longer than any pause of a broker in good health
//	cluster.switchGrace = 1500 * time.Millisecond                            all requests wait for the slowest one meanwhile; what is not complete is delivered again
//	cluster.unreachableLogInterval = 30 * time.Second                        an outage may last, and its cause may change
//	cluster/broker.closeTimeout = 250 * time.Millisecond                     closing must not delay the next connection
//	cluster/broker.freshFor = 2 * time.Second                                a caller's node that has failed is found again within that time
//	cluster/broker.looks = 3                                                 more need heartbeats that come more often than half of their interval; fewer make a pause of this process count
//	cluster/broker.maxNodes = 1024                                           a caller may forge any number of node names
//	cluster/broker.maxReused = 64 << 10                                      a larger buffer is freed after use
//	cluster/broker.maxTableDepth = 8                                         deeper headers than any client makes
//	cluster/broker.maxTableValues = 1024                                     more headers than any client sends
//	cluster/broker.maxWaiting = 256 << 10                                    bytes buffered while the socket is slow
//	cluster/broker.probeDialTimeout = 5 * time.Second                        a probe connection to the broker that is connected already
//	cluster/broker.probeTimeout = time.Second                                a live node replies in milliseconds
//	cluster/client.closeTimeout = time.Second                                closing must not delay the caller's own end
//	cluster/client.connectTimeout = 8 * time.Second                          covers TCP, TLS and login on a slow network
//	cluster/client.defaultTimeout = 30 * time.Second                         longer than a failover of broker or database; no caller waits for ever
//	cluster/client.firstConnectPause = 100 * time.Millisecond                spreads the dials of clients that lose their broker node together
//	cluster/client.firstRetryPause = 100 * time.Millisecond                  most failures of the service pass within a second
//	cluster/client.heartbeat = 10 * time.Second                              a connection through a dead firewall is found before a request's default time ends
//	cluster/client.longestConnectPause = 5 * time.Second                     finds a broker that is back soon, and costs it little
//	cluster/client.longestRetryPause = 5 * time.Second                       finds a service that is back soon, and costs it little
//	cluster/client.maxDepth = 1000                                           the service accepts values of that depth at most
//	cluster/client.maxIDs = 1000                                             as many as get_many takes
//	cluster/client.maxName = 200                                             leaves room below the protocol's 255 bytes
//	cluster/client.maxRejections = 3                                         another request on the same channel may be the cause
//	cluster/client.maxReply = 16 << 20                                       a page has 4 MiB, the largest message of RabbitMQ 4 has 16 MiB
//	cluster/client.maxShortString = 255                                      the library closes the connection over a longer one
//	cluster/client.maxUnderWay = 64 << 20                                    16 pages or 1,024 other requests keep any service busy
//	cluster/client.minReadPause = 200 * time.Millisecond                     a reading takes 0.4 ms with 64 partitions, 3.5 ms with 1,024; a copy may be as old as this
//	cluster/client.queueExpires = time.Hour                                  a subscriber that ended for good leaves nothing behind
//	cluster/client.readEvery = time.Minute                                   a change whose notification was lost waits at most this long
//	cluster/client.readPauseFactor = 10                                      a subscriber keeps a tenth of a connection of a slow service busy at most
//	cluster/client.resendAfter = 5 * time.Second                             a reply is lost seldom; a request that waits in a long queue is repeated twice in 20 s
//	cluster/internal/consume.AckDelay = 50 * time.Millisecond                gathers many acknowledgements at a high rate, and few requests are delivered again
//	cluster/internal/consume.ackShare = 4                                    a quarter of the prefetch count may wait; the rest is for requests in flight
//	cluster/internal/consume.busyAbove = 0.7                                 above it, a request waits for a processor longer than batches save
//	cluster/internal/consume.busyFor = time.Minute                           an instance that was busy is likely to be so again
//	cluster/internal/consume.crowdedFor = 10 * time.Second                   each change of the prefetch count replaces a consumer
//	cluster/internal/consume.firstReopenPause = 100 * time.Millisecond       a queue that was deleted is declared again soon
//	cluster/internal/consume.longestReopenPause = 5 * time.Second            bounds how long a queue that is back goes unused
//	cluster/internal/consume.headerOverhead = 32                             a string and an interface value take that, with their share of a map
//	cluster/internal/consume.lossDelay = 100 * time.Millisecond              the loss of a channel is known within that time
//	cluster/internal/consume.lowTicks = 3                                    a pause of two seconds is no reason to share
//	cluster/internal/consume.maxIdle = 16                                    as many partitions as an instance takes over at once when it joins
//	cluster/internal/consume.openAtOnce = 4                                  opening more at a time gains nothing
//	cluster/internal/consume.leastInFlight = 8                               fewer requests do not share messages, however many instances there are
//	cluster/internal/consume.leastRate = 160                                 at half of it, a frozen instance keeps requests from the others for a third of a second
//	cluster/internal/consume.preferSamples = 32                              takes a tenth of a second at the rate that counts
//	cluster/internal/consume.preferredInFlight = 24                          with fewer requests hardly two share a message
//	cluster/internal/consume.preferredRate = 500                             with fewer requests the cost of each does not matter
//	cluster/internal/consume.raiseEvery = 10 * time.Second                   large requests come in series; each change cancels a consumer
//	cluster/internal/consume.roomTimes = 8                                   a backlog of 2,048 small requests takes a few MB, and half a second to carry out
//	cluster/internal/consume.usualHeaders = 1 << 10                          more than a trace and the broker's own headers take
//	cluster/internal/coordinate.claimTimeout = 8 * time.Second               a claim may wait for a write transaction to be ended, within the store's own limits
//	cluster/internal/coordinate.handOverRetryEvery = 200 * time.Millisecond  the next owner waits for this
//	cluster/internal/coordinate.maxInputs = 10_000                           some seconds of messages in a cluster of 1,000 members
//	cluster/internal/coordinate.releaseTimeout = 5 * time.Second             as the store's limit on a change of the epoch table
//	cluster/internal/coordinate.surveyTimeout = 5 * time.Second              the ownership core asks again
//	cluster/internal/fairqueue.asksFor = time.Second                         a caller with one request at a time asks again sooner, unless it has little to ask
//	cluster/internal/fairqueue.sparedFor = 10 * time.Second                  long enough to work off what came in while the caller was held back
//	cluster/internal/metrics.maxCallers = 32                                 more services than call; each makes a series of the metric
//	cluster/internal/metrics.meterMemory = 0.7                               a rate follows the load within some seconds and does not jump
//	cluster/internal/metrics.trafficEvery = 10 * time.Second                 the resolution of the status page
//	cluster/internal/metrics.trafficPoints = 60                              the last ten minutes
//	cluster/internal/notify.firstConnectPause = 250 * time.Millisecond       as the first pause between sessions
//	cluster/internal/notify.firstPause = 2 * time.Second                     each probe repeats the notification for the other subscribers
//	cluster/internal/notify.longestConnectPause = 5 * time.Second            as the longest pause between sessions
//	cluster/internal/notify.longestPause = 30 * time.Second                  the delay after a subscriber's queue has room again
//	cluster/internal/notify.maxAddedBytes = 256 << 10                        per partition; a pass ends without another page unless more is committed during one
//	cluster/internal/notify.maxHeldBack = 50_000                             some 100 bytes each
//	cluster/internal/notify.maxPending = 1024                                enough for the broker's round trip at the highest rate
//	cluster/internal/notify.maxPendingBytes = 16 << 20                       the same in bytes
//	cluster/internal/notify.maxSkipped = 10_000                              20 pages; a pass that has skipped more would do so again and again
//	cluster/internal/notify.outboxPage = 500                                 a page of usual notifications is below 1 MB
//	cluster/internal/notify.outboxTimeout = 2 * time.Second                  another attempt follows
//	cluster/internal/notify.overdueAge = 20 * time.Second                    longer than any notification is pending in good health
//	cluster/internal/notify.probeTimeout = 2 * time.Minute                   longer than RabbitMQ handles nothing on a channel because of a silent queue
//	cluster/internal/notify.releaseTimeout = time.Second                     a hand-over must be short; the next owner repeats what is not confirmed then
//	cluster/internal/notify.retryEvery = time.Second                         small beside the pauses
//	cluster/internal/notify.stuckAfter = 10 * time.Second                    longer than any pause of a broker in good health
//	cluster/internal/notify.surveyEvery = 10 * time.Second                   small beside the time after which an alert is due
//	cluster/internal/notify.watchEvery = time.Second                         small beside stuckAfter
//	cluster/internal/publish.pingTimeout = 5 * time.Second                   a channel that does not reply in it belongs to a connection that is blocked
//	cluster/internal/publish.sweepEvery = 250 * time.Millisecond             small beside the time limits of messages
//	cluster/internal/readlease.askEvery = 100 * time.Millisecond             bounds the questions about leases that have ended, and to a slow database
//	cluster/internal/readlease.askTimeout = 2 * time.Second                  a question that is given up costs a connection
//	cluster/internal/relay.askFor = time.Second                              a queue that is consumed answers in milliseconds
//	cluster/internal/relay.checkEvery = reportFor / 4                        delays the change to the queue by a quarter
//	cluster/internal/relay.firstPause = time.Second                          an instance that was frozen or full is likely to be so again
//	cluster/internal/relay.flushEvery = 5 * time.Millisecond                 short beside a hand-over
//	cluster/internal/relay.flushFor = 200 * time.Millisecond                 requests wait meanwhile; the queue was being consumed a moment before
//	cluster/internal/relay.gatherAtMost = 5 * time.Millisecond               callers send their next requests together after a group commit; a loaded broker confirms in about that time
//	cluster/internal/relay.laneIdleFor = time.Minute                         opening a channel again takes milliseconds
//	cluster/internal/relay.longestPause = 30 * time.Second                   the same after many faults in a row
//	cluster/internal/relay.maxBatch = 64                                     more gain little
//	cluster/internal/relay.maxBatchBytes = 128 << 10                         one frame of AMQP, of which others wait for a millisecond
//	cluster/internal/relay.maxSenders = 1024                                 some 100 bytes each
//	cluster/internal/relay.queuedBytes = 64 << 20                            what all instances may have relayed to one; the partition queues take what is dropped
//	cluster/internal/relay.queuedMilliseconds = 1000                         what is older went to the partition queues before
//	cluster/internal/relay.reportDelay = 20 * time.Millisecond               gathers many reports at a high rate; the caller has its reply already
//	cluster/internal/relay.reportFor = 200 * time.Millisecond                longer than a scheduling delay, short beside the end of a lease
//	cluster/internal/relay.sendFor = time.Second                             the broker confirms in milliseconds
//	cluster/internal/relay.workFor = time.Second                             until then a slow request occupies a place of the router's prefetch count
//	cluster/internal/relay.workingEvery = reportFor / 4                      two messages may be late
//	cluster/internal/repartition.callFor = 3 * time.Second                   a broker that responds does so in milliseconds; all requests wait meanwhile
//	cluster/internal/repartition.closeTimeout = time.Second                  as in package cluster
//	cluster/internal/repartition.confirmFor = 5 * time.Second                as cluster.confirmTimeout; then the queues are probed
//	cluster/internal/repartition.connectFor = 3 * time.Second                requests wait meanwhile; another instance may reach the broker sooner
//	cluster/internal/repartition.consumeFor = 6 * time.Second                RabbitMQ drops a frozen consumer after two to three heartbeats of a second
//	cluster/internal/repartition.failedEvery = 10 * time.Second              it is tried several times a second
//	cluster/internal/repartition.failedPause = 300 * time.Millisecond        longer than switchEvery, so that another instance is next
//	cluster/internal/repartition.giveUpAfter = 10 * time.Second              all requests wait meanwhile; longer than a frozen instance needs to be dropped
//	cluster/internal/repartition.goneFor = 6 * time.Second                   as consumeFor
//	cluster/internal/repartition.inFlight = 256                              many messages share a round trip, and few bodies are in memory
//	cluster/internal/repartition.keptFor = 12 * time.Second                  RabbitMQ's timer for messages to a queue without a leader has 10 s
//	cluster/internal/repartition.leftEvery = 5 * time.Second                 nobody waits for it, and each time takes three connections
//	cluster/internal/repartition.lookEvery = time.Second                     one look at a row; the command wakes all instances that it reaches
//	cluster/internal/repartition.lookTimeout = 5 * time.Second               as for a ping of the database
//	cluster/internal/repartition.maxUnconfirmed = 31                         RabbitMQ stops reading from the connection with one more
//	cluster/internal/repartition.notifyFor = 2 * time.Second                 a thousand notifications, and the second after which it is noted that they were sent
//	cluster/internal/repartition.openAtOnce = 8                              each takes three round trips, and the broker some CPU
//	cluster/internal/repartition.pollEvery = 20 * time.Millisecond           all requests wait meanwhile; each poll is a round trip
//	cluster/internal/repartition.releaseTimeout = time.Second                if it fails, the leases are taken from the mover
//	cluster/internal/repartition.renewEvery = 400 * time.Millisecond         a fifth of attemptFor, so one may be lost or late
//	cluster/internal/repartition.silentFor = 8 * time.Second                 longer than a quorum queue needs to choose a leader, or to give up a consumer under our policy
//	cluster/internal/repartition.stopFor = 2500 * time.Millisecond           lookEvery and switchGrace: an instance that the command does not reach stops by itself
//	cluster/internal/repartition.switchEvery = 50 * time.Millisecond         requests wait for it; one look at a row, by each instance, for a second or two
//	cluster/internal/repartition.unmarkedFor = time.Second                   the queue has responded; its messages come in milliseconds
//	cluster/internal/rpc.maxQueued = 1024                                    as many requests as a client has under way
//	cluster/internal/sizes.checkTimeout = 500 * time.Millisecond             a transaction is open meanwhile
//	cluster/internal/sizes.logEvery = 10 * time.Second                       callers can cause any number of these log lines
//	cluster/internal/sizes.measureTimeout = 2 * time.Second                  the broker takes milliseconds; a request waits for it
//	cluster/internal/topology.connectTimeout = 8 * time.Second               as cluster.connectTimeout
//	cluster/internal/topology.declarePause = time.Second                     a queue that cannot be declared must not loop
//	cluster/internal/topology.declareSharedEvery = 5 * time.Second           without the shared queue requests are lost
//	cluster/internal/topology.declaringChannels = 4                          the broker takes milliseconds per queue; more channels gain little
//	cluster/internal/topology.firstProbedID = 1 << 62                        greater than the id of any user
//	cluster/internal/topology.firstRebindInterval = 10 * time.Second         requests misrouted before a rebind are still in the queues after it
//	cluster/internal/topology.longestRebindInterval = 10 * time.Minute       rebinding does not help if it did not the last times
//	cluster/internal/topology.lookEvery = 30 * time.Second                   the broker does not report what is deleted
//	cluster/internal/topology.ownChannels = 16                               some more than are ever open at the same time
//	cluster/internal/topology.probeAllFor = time.Second                      a thousand queues confirm within a fraction of it
//	cluster/internal/topology.probeEachFor = 5 * time.Second                 as repartition.confirmFor
//	cluster/internal/topology.probeExpiration = time.Minute                  a queue that is not consumed must not fill with probes
//	cluster/internal/topology.probes = 16                                    one in 32 finds out that two of 64 queues have changed places
//	cluster/internal/topology.rebindFailedEvery = 10 * time.Second           a rebind may fail once per second
//	cluster/internal/topology.rebindPause = time.Second                      one attempt per instance and second
//	cluster/membership.channelCloseTimeout = time.Second                     closing must not delay the next session
//	cluster/membership.confirmTimeout = 2 * time.Second                      a heartbeat would be of no use later
//	cluster/membership.logInterval = time.Minute                             members can cause any number of these log lines
//	cluster/membership.maxBody = 1 << 20                                     a report of the largest cluster is smaller
//	cluster/membership.maxBroadcastBytes = 16 << 20                          bounds what waits while the broker is slow
//	cluster/membership.maxBroadcasts = 1024                                  the same in number
//	cluster/membership.maxName = 63                                          as a DNS label
//	cluster/membership.maxNext = time.Minute                                 a member that is never due again would never be suspected; 1,000 members send each 10 s
//	cluster/membership.maxPartitions = 1 << 14                               more than a broker can hold as queues
//	cluster/membership.maxProbes = 1024                                      one per member, of which there are at most 1,000
//	cluster/membership.maxReplies = 32                                       status queries are rare
//	cluster/membership.maxSentence = 256                                     a longer text is cut
//	cluster/membership.maxStatusQueries = 16                                 status queries are rare
//	cluster/membership.maxText = 64                                          a longer text is cut
//	cluster/membership.maxUnconfirmed = 256                                  enough for the broker's round trip
//	cluster/membership.maxWeight = 100                                       ten times the greatest weight that can be set; the ring has 100 points for each
//	cluster/membership.queuedFor = time.Minute                               older messages say nothing new
//	cluster/membership.quietPeriod = 100 * time.Millisecond                  all members reply to a query within that time after the last one
//	cluster/membership.requestInterval = time.Second                         a query is repeated if its reply is lost
//	cluster/ownership.heartbeat = 500 * time.Millisecond                     one may be lost until a member is suspected after 1.7 s; each costs the broker 0.03 ms per member
//	cluster/ownership.maxBackoff = 4                                         heartbeats between claims after failures; the partition is not served meanwhile
//	cluster/ownership.maxDebounces = 4                                       members that keep coming must not delay the ring for ever
//	cluster/ownership.maxStartBackoff = 20                                   heartbeats likewise after consumers that did not start, where claims do not help
//	cluster/ownership.membersPerHeartbeat = 50                               heartbeats of all members in the time of one; 100 members cost the broker what they did at one a second
//	cluster/ownership.startFor = 8                                           heartbeats; eight times as long as a start takes after a death
//	cluster/ownership/hashring.maxLoad = 1.25                                less moves more partitions when a member comes or goes; more loads members less evenly
//	cluster/ownership/silence.firstSpare = 2 * time.Second                   longer than a claim and a start; a member that has died meanwhile is replaced as much later
//	cluster/ownership/silence.halfLife = time.Minute                         a member that was suspected wrongly is not again for as long; a machine that was busy is likely to be so again
//	cluster/ownership/silence.intervals = 2                                  any heartbeat may be lost
//	cluster/ownership/silence.marginFactor = 2                               the next delay may be longer than the longest so far
//	cluster/ownership/silence.maxMargin = 4 * time.Second                    bounds how long a dead member goes unnoticed that was often late
//	cluster/ownership/silence.maxSpare = time.Minute                         a split of the broker's nodes moves partitions once a minute at most; one member that dies in it is replaced as much later
//	cluster/ownership/silence.minMargin = 700 * time.Millisecond             three times the longest delay on two busy cores (0.22 s); with twice as much work as they can do it was 0.97 s
//	cluster/ownership/silence.returnEvery = 500 * time.Millisecond           longer than a member takes to claim all that was taken from it
//	cluster/ownership/silence.returnFor = maxSpare / 2                       a split that goes on is not forgotten while it spares a member for a minute
//	cluster/ownership/silence.unknownInterval = 1100 * time.Millisecond      what programs send that do not say when the next heartbeat is due
//	cluster/partition.DeposedReadsFor = ReadFor + ReadFor/4                  two clocks may both be corrected by a tenth; a partition is not served meanwhile
//	cluster/partition.ReadFor = 300 * time.Millisecond                       a partition without an owner waits as long; a shorter time costs more questions
//	cluster/partition.renewWithin = ReadFor / 3                              longer than the database takes to reply, also under load
//	cluster/wait.firstReconnectPause = 250 * time.Millisecond                short enough for a restart that takes a second
//	cluster/wait.insistFor = 5 * time.Minute                                 covers a restart of the broker or a failover of the database
//	cluster/wait.longestReconnectPause = 5 * time.Second                     bounds how long a server that is back goes unused
//	store.MaxImportUsers = transfer.MaxUsers                                 more users per transaction gain little
//	store.lossShownFor = time.Hour                                           somebody looks at the page within it, and the alert lasts as long
//	store.maintainEvery = 10 * time.Minute                                   the tasks are about days
//	store.maxPrepared = 4                                                    as many connections as read and write at the same time usually
//	store.prepareTimeout = 5 * time.Second                                   preparing is optional
//	store/archive.maxSequence = 1 << 53                                      leaves more numbers than a user can have changes
//	store/internal/batch.gatherAtMost = 8 * time.Millisecond                 a small part of the time of a request under full load
//	store/internal/batch.overlapAfter = 25 * time.Millisecond                a slow group must not delay the next one longer
//	store/internal/changelog.MaxEpoch = 1<<(63-EpochBits) - 2                a lease each minute for 15 years
//	store/internal/changelog.day = 24 * time.Hour                            the log has a table for each
//	store/internal/changelog.daysAhead = 7                                   a week of nobody noticing costs no write
//	store/internal/changelog.EpochBits = 40                                  leaves a lease positions for 1,000 changes a second in 34 years
//	store/internal/changelog.minKeep = day                                   requests may be replayed that long
//	store/internal/changelog.nearMidnight = 10 * time.Minute                 much longer than a transaction takes, and than clocks differ
//	store/internal/commit.decideGroupFor = 500 * time.Millisecond            other groups wait, and rows may be locked
//	store/internal/commit.decideUserFor = 20 * time.Millisecond              other users' writes of the same transaction wait
//	store/internal/commit.firstAttemptPause = 20 * time.Millisecond          a failover of a pooler takes less than a second
//	store/internal/commit.firstPostponement = 10 * time.Millisecond          the blocking transaction is usually short
//	store/internal/commit.idReusedAfter = 10 * time.Minute                   longer than callers retry, and sooner than most are started again
//	store/internal/commit.longestAttemptPause = time.Second                  bounds the delay after the database is back
//	store/internal/commit.longestPostponement = 250 * time.Millisecond       bounds the delay after a long transaction has ended
//	store/internal/commit.maxGroup = 128                                     a larger group gains little and holds locks longer
//	store/internal/commit.maxGroupBytes = 256 << 10                          a transaction may take only a fraction of AttemptTimeout
//	store/internal/commit.maxIDRequests = 32                                 ids that are taken in one round trip
//	store/internal/commit.maxRaise = 10_000_000                              a user with a great id must not use up the ids below
//	store/internal/commit.maxReservedIDs = maxGroup                          a group has no more creates
//	store/internal/commit.maxStaleDraws = 3                                  each draw is a round trip; a create finds a taken id again
//	store/internal/commit.minFreeIDs = 1_000_000                             a user with the greatest id must not end all creates
//	store/internal/commit.reservedFor = time.Second                          users are created nearly in the order of their ids
//	store/internal/commitstate.DefaultPatience = 20 * time.Second            longer than any statement of an attempt
//	store/internal/foreign.calmAfter = 30 * time.Second                      foreign writes come in series
//	store/internal/foreign.firstPause = 50 * time.Millisecond                reads go to the database until the watch is back
//	store/internal/foreign.longestPause = 2 * time.Second                    the same
//	store/internal/foreign.pingEvery = time.Second                           bounds how long a silent connection is trusted
//	store/internal/foreign.pingTimeout = 2 * time.Second                     the same
//	store/internal/generations.attemptFor = 2 * time.Second                  requests wait as long if the instance dies that moves them; longer than a pause of a busy one
//	store/internal/generations.MaxNumbers = 4096                             each is a number in the positions of the operation changes, which stay below 64 KiB
//	store/internal/history.epochGap = 512                                    leases of a partition between two surveys are some dozens; 8,000 failovers use up the epochs
//	store/internal/history.startGap = 1000                                   more than the starts of instances that a failover loses
//	store/internal/history.userIDGap = 100_000                               more than are drawn between two pings and during an outage
//	store/internal/leases.changeTimeout = 5 * time.Second                    covers all attempts; the coordinator asks again
//	store/internal/leases.maxClaims = 512                                    a lock for each partition; the database has room for some thousand
//	store/internal/outbox.day = 24 * time.Hour                               as in changelog
//	store/internal/outbox.flushEvery = time.Second                           bounds what is sent again after a crash; one small transaction
//	store/internal/outbox.maxUnreadableLogged = 1000                         rekey with a dry run lists all
//	store/internal/postgres.AttemptTimeout = 10 * time.Second                a database that has stopped replying must be noticed
//	store/internal/postgres.CloseTimeout = 2 * time.Second                   a silent database does not confirm a close
//	store/internal/postgres.MaxPageBytes = 4 << 20                           bounds the memory of one statement's rows
//	store/internal/postgres.acquireWithin = time.Second                      a pool that is busy for longer still works
//	store/internal/postgres.closePause = 25 * time.Millisecond               an exiting backend keeps a core busy for some milliseconds
//	store/internal/postgres.closePauseSum = 500 * time.Millisecond           bounds the delay of a shutdown
//	store/internal/postgres.connectEvery = 10 * time.Second                  bounds how long refused connections go unnoticed; a new one costs the database some milliseconds
//	store/internal/postgres.connectTimeout = 5 * time.Second                 covers TCP, TLS and login
//	store/internal/postgres.connectWithin = 4 * time.Second                  leaves time for the pool within cluster.pingTimeout
//	store/internal/postgres.firstReservePause = 250 * time.Millisecond       the pool serves meanwhile
//	store/internal/postgres.guardPause = 250 * time.Millisecond              connections that wait for a guard that fails would fail one after another
//	store/internal/postgres.guardTimeout = 5 * time.Second                   two round trips and the locks of some writes
//	store/internal/postgres.longTransaction = 3 * time.Second                a standby on another continent replies sooner
//	store/internal/postgres.longestReservePause = 10 * time.Second           the same
//	store/internal/postgres.minConnectTimeout = time.Second                  several servers share connectTimeout; a busy one needs a part of a second
//	store/internal/postgres.overlapAfter = 25 * time.Millisecond             longer than a change of leases that waits for no lock
//	store/internal/postgres.reserveWithin = 2 * time.Second                  transactions use the pool meanwhile
//	store/internal/postgres.retryTimeout = 30 * time.Second                  covers a failover
//	store/internal/postgres.reviveWithin = time.Second                       a change of leases has several seconds in all
//	store/internal/postgres.sharingChecks = 5                                another connection may have the session at one moment
//	store/internal/postgres.suspectAfter = time.Second                       as in pgxpool
//	store/internal/postgres.waitShownFor = longTransaction + 4*time.Second   an attempt that is repeated is long again within that time
//	store/internal/reads.crowdedLogInterval = 10 * time.Second               callers can cause any number of these log lines
//	store/internal/reads.day = 24 * time.Hour                                as in changelog
//	store/internal/reads.maxDaysPerPage = 32                                 a round trip each; a month of an idle log is one page
//	store/internal/reads.maxListBytes = 4 << 20                              the reply of a page must be sendable
//	store/internal/reads.maxListWait = 10 * time.Second                      as one attempt of a read
//	store/internal/reads.maxLookups = 64                                     look-ups that share a round trip
//	store/internal/reads.maxPartitions = generations.MaxNumbers                                the maximum over all generations; bounds the memory for a position
//	store/internal/reads.maxSearchBytes = 64 << 10                           a name has fewer; sorting the marks of a long word takes time
//	store/internal/reads.maxSearchWords = 1000                               only the first 1,000 characters of a name are searched
//	store/internal/reads.maxWordBytes = 2046                                 PostgreSQL leaves longer words out of a tsvector
//	store/internal/rekey.maxPasses = 5                                       another program may keep encrypting with a later key
//	store/internal/rekey.maxSampledBytes = 16 << 10                          bounds the memory of the check at the start
//	store/internal/rekey.maxUnreadableListed = 1000                          a longer list is of no more use
//	store/internal/rekey.maxUsersLogged = 10                                 a longer log line is of no more use
//	store/internal/rekey.passPause = time.Second                             transactions that have locked rows end in it
//	store/internal/rekey.sampleTimeout = 10 * time.Second                    the check at the start is optional
//	store/internal/transfer.MaxUsers = 500                                   more users per transaction gain little
//	store/internal/transfer.importRetryTimeout = 20 * time.Second            other transactions end in less
//	store/internal/transfer.pageTimeout = time.Minute                        a database that has nothing of the page in memory
//	store/internal/userdata.maxErased = 500                                  nobody waits for the locks of a transaction
package cluster
