// Package generation lets an instance work in one generation of partitions.
//
// In the database and in the names of queues, a partition has a number that no other generation uses.
// An instance numbers the partitions of its generation from 0 on, as [partition.Of] does, and so do
// the messages between members. A [View] of the store translates: nothing else has to know of
// generations, and what belongs to one generation never touches another one.
package generation
