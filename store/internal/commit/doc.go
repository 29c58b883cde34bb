// Package commit commits writes to users, in groups that share a transaction ([Committer]),
// and hands out the ids of new users ([UserIDs]).
//
// The documentation of package store says how writes are committed and fenced, and why.
// From the submission of a write on, the files in order are:
//
//   - committer.go queues a pending write (pending.go), and group.go attempts to commit groups.
//     After each attempt, package commitstate decides what follows.
//   - attempt.go chooses the pending writes of an attempt. attempt_cached.go makes an attempt of
//     one round trip, which checks preconditions (preconditions.go). attempt_read.go
//     makes one that reads the users first.
//   - turns.go lets one attempt at a time write to a partition. fence.go locks partitions and
//     checks leases.
//   - decide.go has the writes decide. plan.go turns decisions into rows of users and of the
//     log, and plan_write.go writes these.
//   - abandoned.go finds out what became of a write of unknown outcome whose caller has gone.
package commit
