// Package ownership decides, for one instance, which instances are members of the
// cluster, which member owns which partition, and what has to be done about that.
//
// It only decides. A [Core] gets events, each with the current time, and returns commands.
// The program that runs the core carries the commands out and reports their results as
// events. The package has no input or output, no goroutine, no clock, and no randomness
// except from Config.Seed. So whole clusters of cores can be simulated (package sim does
// that), and each failure can be repeated.
//
// # The parts of a core
//
// The Core itself has the state of the instance, the events, the timers and the messages.
// Each of its parts has a state of its own:
//
//	partitions      which phase each partition is in, and what happens to its lease
//	partitionState  one partition: its phase, and the allowed changes
//	registry        the other members: alive, silent or gone, and their latest messages
//	ring            the owner of each partition, and when the ring follows the members; package hashring
//	                assigns the partitions, and package moves has what operators have changed
//	pacing          how many hand-overs run at a time, and the rests between them
//	outbox          what the next messages have to say, and when the next one is due
//	outage          since when the database has not replied to claims
//
// The registry, the ring, the pacing, the outbox and the outage give no commands and know
// nothing of each other, except that the ring reads the registry.
//
// # The epoch table
//
// The epoch table in the database is the only truth about the owner of a partition. A
// claim raises the partition's epoch and names the new owner, and so does an owner that
// hands the partition over. Each write checks in its own transaction that its epoch and
// its member are still those in the table. So two instances may both believe that they own a partition,
// but only one of them can write to it. A wrong decision in this package costs time and
// nothing else.
//
// The table may go back: a failover may lose commits, and a backup may be restored. Then two
// members may have a lease with the same epoch; only the one that the table names can
// write. If a survey finds an earlier epoch than that of a lease of this instance, all
// its leases are given up, because what it has cached may be from the commits that were
// lost. A claim raises the epoch beyond all that the instance has found in the table.
//
// Nothing is committed under a lease that has deposed another process, and it is neither
// granted nor released, until the read lease of that process has certainly ended
// ([partition.DeposedReadsFor] after the reply to the claim): [Consume] and [Release] say
// when. The process may be alive, although the broker says that it is gone: its nodes may have
// lost contact.
//
// A claim takes a released partition, or deposes the holder of exactly the epoch that the
// claim names. That epoch comes from the table's latest refusal of a claim, never from
// what the instance remembers of its own leases. And the holder has to be dead:
//
//   - the broker has reported that the holder's exclusive queue is gone, or the holder has
//     said that it leaves;
//   - a newer incarnation of the holder is known;
//   - no message of the holder has come for too long (package silence says for how long); or
//   - the holder is an earlier session or run of this instance, which has ended.
//
// A holder that was deposed and takes its lease back lives, whatever it seems to be: the nodes of the broker
// may have lost contact, so that two members do not hear each other. Then it is spared for
// a time that grows (silence.Returns): no lease is taken from it, and the partition is claimed now and then
// in case that it is released. An instance that has deposed another one and cannot start its consumer
// releases the lease. If the other one then takes it back, that one is spared longest: it may reach the queue.
//
// # Members
//
// Each instance broadcasts a [Message] with every heartbeat, and earlier if there is news. A
// message says when the next one is due. With more than fifty members the heartbeats become
// rarer, so that their number per second does not grow with the square of the cluster.
// Each connection to the broker is a new [Incarnation], with empty state: nothing is
// carried over from the last one, and a member that knows the new incarnation knows that
// the last one is over.
//
// The broker is the first to notice that a member is dead. So each member keeps probing the
// two members that follow it in the order of names, and tells the others what it finds. The
// work per member does not depend on the size of the cluster. Silence counts too, but takes
// longer if the broker drops the member's connection soon. Time counts as silence of a member
// only while an instance's own heartbeats come back to it. While they do not, or before the first
// one has, it claims nothing and does not become ready: it knows of no member whether it lives. An instance that finds that it
// was frozen or starved asks the epoch table which of its leases stand, because
// the others may have suspected it. A member that was suspected and is heard again
// is in the ring again at once, and gets more time from then on.
//
// # The ring
//
// [hashring.Assign] computes from the names and weights of the ready members which one should own each
// partition. A member that leaves or dies is removed from the ring at once. A new member, or another
// weight, waits a short time for further ones. An operator may move a partition to a member: see
// package moves. While a member has a program that knows of neither, weights and moves have no effect, so that
// all members agree.
//
// Members need not agree on the ring at each moment. A partition moves when its old and its
// new owner agree:
//
//	new owner                  old owner                 epoch table
//	    │ claim                    │                          │
//	    ├──────────────────────────┼─────────────────────────▶│
//	    │◀─────────────────────────┼───── refused: epoch 7 ───┤
//	    │ wants epoch 7            │                          │
//	    ├─────────────────────────▶│ if its ring says so too: │
//	    │                          │ cancel, complete, ack,   │
//	    │                          │ epoch 8 for the new one  │
//	    │                          ├─────────────────────────▶│
//	    │◀───────────── granted 8 ─┤                          │
//	    │ epoch 8 is mine?         │                          │
//	    ├──────────────────────────┼─────────────────────────▶│
//	    │ consume                  │                          │
//
// Until the new owner asks for it, the old owner serves the partition, also if it drains or
// leaves. The new owner asks for a few partitions at a time. The old owner hands them over
// one after another (of more than 64 partitions, a few at a time) with a rest after each.
// So a partition that moves is without an owner only for a short time: it does not wait for
// the others. Partitions that do not move are served as before.
//
// Every message may be lost. A wish is repeated with each heartbeat; a periodic survey of
// the epoch table finds everything else. If a new owner has missed its grant, it asks again,
// and is told that epoch 7 is released. It then claims, is refused by epoch 8, which is its
// own, and claims once more.
//
// # One partition as a state machine
//
// Each partition has a phase in each instance. "Ours" means that the ring assigns the
// partition to this instance. An event that is not in the table leaves the phase as it is.
//
//	phase         event                                     next phase    command
//	idle          ours                                      claiming      Claim
//	idle          ours, but this instance is cut off        waiting       Claim as soon as it hears itself
//	claiming      claimed, and still ours                   starting      Consume
//	claiming      claimed, but no longer ours               idle          Release
//	claiming      refused: released meanwhile               claiming      Claim
//	claiming      refused: the holder is dead               claiming      Claim (depose)
//	claiming      refused: the holder is alive              waiting       wish in the next messages
//	claiming      failed, and still ours                    waiting       Claim after a delay
//	claiming      refused or failed, no longer ours         idle
//	waiting       the holder has granted the lease          starting      Consume
//	waiting       the holder has released it or is dead     claiming      Claim
//	waiting       the holder is spared, after a delay       claiming      Claim
//	waiting       no holder is known, and the delay is over claiming      Claim
//	waiting       no longer ours                            idle
//	starting      consuming                                 owned
//	starting      another member was deposed, and no start  waiting       Abandon, Release; Claim after a delay
//	owned         not ours, and the new owner asks for it   handing over  HandOver
//	owned         not ours, draining, no member asks        handing over  HandOver (release)
//	handing over  handed over                               idle          grant to the new owner
//	with a lease  lost, or the table has a later epoch      waiting       Abandon; Claim after a delay if still ours
//	with a lease  lost, and no longer ours                  idle          Abandon, Release
//	any           the connection is lost                    idle          Abandon if there is a lease
//
// A claim that succeeds after its session has ended, or after a newer claim for the
// partition, is released. Each change of the phase is checked against the list of allowed
// changes.
//
// # What is left to others
//
// The program that runs a Core sets Config.Start to a greater value than in each earlier run
// under the same name. For each session it declares an exclusive queue named by
// name, start and session, so that the broker can be asked about it. It fences the writes.
// It replies to each [Claim], [Consume] and [HandOver], and carries out the commands for
// one partition in order.
//
// # Design decisions and what they cost
//
//   - No leader and no consensus protocol. The epoch table is the only arbiter, because
//     each write needs the database anyway. Cost: without the database no partition can
//     move. Why not a leader: requests would wait for its election, and its own failure
//     would be one more case.
//   - Leases for writes have no expiry time; they end by a claim, a grant or a release. Cost: a dead
//     holder's partitions wait until its death is noticed (half of a heartbeat by a
//     probe, 1.7 s by silence). Why not a time to live: it would need clocks that
//     agree, and a renewal for each partition all the time.
//   - A live holder is never deposed; it is asked. Cost: two messages and a round trip to
//     the database per partition. Why not take the partition at once: the holder's running
//     requests would be fenced off and run again, and the partition would pause until the
//     broker requeues them.
//   - Suspicion may be wrong, because the fence makes that harmless. Cost: the partitions of
//     the suspected member are taken, and handed back to it one after another. Why not wait
//     until the broker drops the member: that takes as long as two of its heartbeats at least,
//     and for ever if its nodes have lost contact. The claims and the wait for the reads of
//     the deposed member would begin only then.
//   - In a split of the broker's nodes, each half deposes the other one, and both find by the epoch table
//     that the other one lives. Cost: each partition is taken a few times, then one a minute at most; and a member that really
//     dies in a split may be spared for as long. Why not a heartbeat in the database: each instance
//     would write to it all the time, for what is rare.
//   - The old owner makes the grant in the table itself. Cost: a kind of message more. Why
//     not release and let the new owner claim: that is one more round trip in which no
//     instance serves the partition, and another member could claim it.
//   - An instance never continues a lease from an earlier session; it claims again. Cost: a
//     lost connection raises the epochs of all its partitions. Why not continue: a deposed owner
//     must not claim from what it remembers.
//   - Hand-overs are paced. Cost: a drain of many partitions takes seconds. Why not all at
//     once: each is work for the broker and the database, and all other requests would
//     wait for that.
//   - A ring of bounded loads (a quarter above the share). Cost: a change moves a few
//     partitions more than the ideal number. Why not modulo or plain hashing: modulo moves
//     nearly all partitions, and plain hashing loads members unevenly.
//   - A move is announced by the member that it leads to, with each heartbeat. Cost: the moves of a member
//     that is not there have no effect. Why not in the database: each member would have to read them
//     all the time, and one that nobody needs any more would have to be removed.
//   - Members probe neighbours instead of each other. Cost: the death of several neighbours
//     at once is found a probe later. Why not probe all: the work would grow with the
//     square of the cluster.
//   - The ring waits for further new members (Debounce). It does not wait after a death.
//     Cost: a new instance is idle for some 300 ms. Why: instances that start together would otherwise move partitions
//     several times.
package ownership
