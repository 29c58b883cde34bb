// Package history notices that the database went back: that a standby was promoted which lacked
// commits, or that a backup was restored. It makes sure that no number is given twice all the same.
//
// # How it is noticed
//
// Each new connection asks the server which history it has ([postgres.History]). The first
// connection to another one is examined by [Keeper] before any connection is used: all others are
// closed or refused. The epoch table shows it too if its contents were replaced in place: a survey
// then finds an epoch that is lower than before.
//
// # What is done about it
//
// The column history of ident_cluster names the history to which the numbers belong. If it names
// another one, the first instance that connects changes all of these in one transaction:
//
//   - The epochs of all partitions are raised, by more than may have been given since they were last
//     seen. So each lease ends, however much is remembered of it, and users that are cached
//     under one are not used any longer: a write is fenced, a read lease is not renewed. The
//     positions of the log begin anew with the epoch.
//   - The sequences of user ids and starts are moved on in the same way.
//   - The positions between the last one in the log and the first one of the new epochs are noted as
//     lost. A subscriber that has one of them learns that it has to start anew.
//   - The column names the present history.
//
// The other instances find that this was done. Each one compares what it has seen itself, which
// raises the numbers once more if they are still too low, and says whether commits were lost.
//
// # What follows from the loss
//
// A request whose commit was lost, and that the broker delivers again, is carried out again. A
// caller that has got its reply already finds the user as it was before. Nothing is repeated from
// memory: replies are recorded in the database alone.
//
// # Design decisions and what they cost
//
//   - Each promotion of a standby ends all leases, also if nothing was lost. Why not only
//     after a loss: an instance knows only what it has seen, and a promotion that it has not
//     seen at all would remain unnoticed. Cost: all partitions are claimed again, and a gap
//     of 100,000 user ids for each promotion.
//   - Instances do not tell each other what they have seen. The gaps are larger than what can be
//     given between two looks at the database. Why not exact: that needs messages, and a member
//     that replies. Cost: a backup that is restored while no instance runs may be older than
//     the gaps allow; the operator moves the sequences then.
//   - A server with an earlier timeline than the one in use is refused: it is most likely the
//     primary before. Cost: if it is an old copy that was started on purpose, instances have to be
//     stopped, and the copy marked as restored.
//   - Subscribers may have got notifications of changes that were lost. Nobody can take them back.
package history
