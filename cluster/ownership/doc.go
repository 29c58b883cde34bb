// Package ownership decides, for one instance, who is a member of the cluster,
// who owns which partition, and what is to be done about it.
//
// It only decides. A [Core] is given events, each with the time at which it is
// looked at, and returns commands. Whoever runs it carries the commands out and
// hands their results back as events. There is no input or output here, no
// goroutine, no clock and no chance but the one that Config.Seed gives. So whole
// clusters of cores can be simulated, and what went wrong can be seen again.
//
// # What is true
//
// The epoch table in the database is the only truth about who owns a partition.
// A claim raises the partition's epoch and names the new owner, and so does an owner
// that hands a partition over; each write makes sure, in its own transaction, that its
// epoch is still the one in the table.
// Two instances can therefore both believe that they own a partition, but only
// one of them can write to it, and whatever is decided here wrongly costs time
// and nothing else.
//
// A claim takes a partition that is released, or deposes the holder of exactly
// the epoch that it names. That epoch is what the table has just said, when it
// refused a claim, and never what this instance remembers of its own. And the
// holder has to be over:
//
//   - the broker has said that its exclusive queue is gone, or it has said good-bye;
//   - a newer incarnation of its name is known;
//   - it has not been heard for Config.SuspectAfter; or
//   - it is an incarnation of this very instance under which nothing runs.
//
// # Members
//
// Each instance broadcasts a [Message] with every heartbeat, and early when
// there is news. Each connection to the broker is an [Incarnation] of its own,
// with a clean slate: whatever was believed in the last one is forgotten, and
// whoever knows of the new one knows that the last one is over.
//
// The broker knows best who is dead. So each member keeps asking it about the
// two that follow it in the order of names, which is as much work in a large
// cluster as in a small one, and tells the others what it finds. Silence counts
// as well, but takes longer. An instance that finds that it was away itself,
// frozen or starved, suspects nobody for having heard nobody; but it lets go of
// what it holds, since the others may have suspected it.
//
// # The ring
//
// [Assign] makes of the names of the ready members a table of who should own
// which partition. Who goes, or dies, is taken out of the ring at once. Who comes
// is waited for together with those who come soon after.
//
// Members need not agree on the ring at each moment. A partition moves when the
// two that it concerns do:
//
//	new owner                  old owner                 epoch table
//	    │ claim                    │                          │
//	    ├──────────────────────────┼─────────────────────────▶│
//	    │◀─────────────────────────┼───── refused: epoch 7 ───┤
//	    │ wants epoch 7            │                          │
//	    ├─────────────────────────▶│ if its ring says so too: │
//	    │                          │ cancel, finish, ack,     │
//	    │                          │ epoch 8 for the new one  │
//	    │                          ├─────────────────────────▶│
//	    │◀───────────── granted 8 ─┤                          │
//	    │ epoch 8 is mine?         │                          │
//	    ├──────────────────────────┼─────────────────────────▶│
//	    │ consume                  │                          │
//
// Until it is asked the old owner serves the partition, also when it drains or
// leaves. The new one asks for a few at a time, and the old one gives them one after
// another (of more than 64 partitions, a few at a time) with a rest after each, so that
// none waits for many others while nobody serves it, and what does not move is served as
// before.
//
// Every message may be lost. A wish is repeated with each heartbeat, and all
// else is found out by reading the epoch table now and then. A new owner that has not
// heard of its grant is told that epoch 7 is released when it asks again; then it
// claims, finds that epoch 8 is its own, and claims once more.
//
// # What is left to others
//
// Whoever runs a Core gives it a Config.Start that is greater than that of each
// earlier run under the same name, and declares for each session an exclusive
// queue whose name tells name, start and session, so that the broker can be
// asked about it. It fences the writes. It answers each [Claim], [Consume] and
// [HandOver], and carries out what concerns one partition in order.
package ownership
