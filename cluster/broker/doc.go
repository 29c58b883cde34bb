// Package broker connects an instance to RabbitMQ, and makes sure that the messages of
// callers cannot cost the instance that connection.
//
// What it promises:
//
//   - [Dial] returns when its context ends, even if the peer accepts the connection and
//     stays silent. Dial verifies TLS and never reconnects by itself. Its errors never
//     contain the password. [Refused] tells the errors that an operator has to act on from
//     those that may pass, and [LoginRefused] those that come from wrong settings.
//   - Each message that RabbitMQ accepts from another client can be received. The client
//     library closes the whole connection over a header that it cannot parse; the message
//     would be redelivered and end one instance after another. A filter between the socket
//     and the library removes such headers, and cuts bodies that are longer than the
//     application wants to read.
//   - [ReplyChecker] tells whether a reply to a request's reply_to is safe. RabbitMQ closes
//     the connection of a client that publishes to a forged direct reply-to name and, in
//     some versions, to a genuine one of a node that is gone.
//
// What it leaves to others: when to connect again, and what to declare, consume and publish.
// Some ways of publishing end the connection too: the library closes it over a short string
// of more than 255 bytes, and RabbitMQ over a header frame that is larger than agreed. So a
// caller's headers should not be copied into another message. Also, on the default exchange
// RabbitMQ obeys a CC or BCC header, even one that names a forged direct reply-to name.
package broker
