// Package generations records which generation of partitions a cluster has, and how far a
// repartition is that changes it.
//
// # What it promises
//
//   - A repartition is a row with a phase. Each change of the phase is one transaction, and none goes
//     back: stopping, moving, clearing, done; or stopping, given up. So any instance can carry it on.
//   - One instance at a time carries it on, with an attempt that it renews. After a later attempt has
//     begun, an earlier one changes nothing: each change names its attempt.
//   - [Table.EndGeneration] ends all leases of the old generation for good: no claim makes another one
//     for its partitions, so nothing is written in it after that. It does so only if the mover holds all of them, and
//     if all changes of the generation were notified: a user's later changes belong to another
//     partition, and must not be notified before the earlier ones.
//   - [Table.BeginGeneration] makes the leases of the new generation and names it as the cluster's.
//     There are no leases of it before.
//   - The numbers of partitions are never used again, but those of a repartition that was given up:
//     nothing was ever in its queues.
//
// Programs that do not know of generations are refused from the beginning of a repartition on:
// the migration that made the tables then says that no older program works with the schema.
package generations
