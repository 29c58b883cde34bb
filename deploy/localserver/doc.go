// Package localserver runs a private RabbitMQ broker and a private PostgreSQL server:
// the real programs, on free loopback ports, with data folders of their own. The command
// glotpod-ident-dev and the tests use them. The programs are those installed on the
// machine, unless GLOTPOD_IDENT_RABBITMQ and GLOTPOD_IDENT_POSTGRES name folders with others.
//
// The package promises:
//
//   - A server reads and writes only inside its folder, uses no setting of the
//     servers that the machine itself runs, and listens on the loopback address only.
//   - StartPostgres and StartRabbitMQ return after a client has logged in.
//   - Data survives. Stop, Kill and Restart keep it. A later start in the same folder
//     finds it again. Two servers must not use one folder at the same time; the caller
//     prevents that.
//   - No process is left behind. Stop and Kill return when all processes of the server
//     are gone. On Linux, the servers also die when the calling program is killed.
//
// All methods are safe for concurrent use. Methods that start or stop the same server
// wait for each other.
package localserver
