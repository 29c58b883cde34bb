// Package localserver runs a RabbitMQ broker and a PostgreSQL server that belong to
// the calling program alone: real servers, as installed on the machine, on free
// loopback ports and with data folders of their own. The command "glotpod-ident
// dev" and the tests run on them.
//
// What it promises:
//
//   - Nothing outside the given folder is read or written, no setting of a
//     server that the machine itself runs is used, and nothing listens on
//     another address than the loopback's.
//   - A server that has been started answers: StartPostgres and StartRabbitMQ
//     return when a client has logged in.
//   - Data survives. Stop, Kill and Restart keep it, and so does starting again
//     in the same folder later. Two servers must not use one folder at once;
//     keeping them apart is left to the caller.
//   - Nothing is left running. Stop and Kill return when every process of the
//     server is gone, and on Linux the servers also die with a program that is
//     itself killed.
//
// All methods may be called from several goroutines; those that start or stop
// the same server wait for each other.
package localserver
