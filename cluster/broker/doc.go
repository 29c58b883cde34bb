// Package broker connects an instance to RabbitMQ, and keeps what callers send
// from costing it that connection.
//
// What it promises:
//
//   - [Dial] returns within its context, also where the peer accepts and then
//     says nothing. It verifies TLS, never reconnects on its own, and its errors
//     never hold the password. [Refused] tells the errors that an operator must
//     see to from those that may pass.
//   - Any message that RabbitMQ passes on from another client can be received.
//     The client library closes the whole connection over a header that it
//     cannot parse; the same message, redelivered, would then end one instance
//     after another. A filter between socket and library takes such headers out,
//     and cuts bodies that are longer than anybody wants to read.
//   - [ReplyChecker] says whether a request's reply_to can be answered. RabbitMQ
//     closes the connection of whoever publishes to a forged direct reply-to
//     name, and with some versions to a true one whose node has gone.
//
// What it leaves to others: when to connect again, and what to declare, consume
// and publish. Some ways to publish end the connection, too: the library ends it
// over a short string of more than 255 bytes, RabbitMQ over a header frame that
// is larger than agreed. A caller's headers should therefore not be carried on as
// they came; what is more, on the default exchange RabbitMQ obeys a CC or BCC
// among them, to a forged direct reply-to name as well.
package broker
