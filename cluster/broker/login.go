package broker

import (
	"encoding/binary"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A login proves the identity of the client to the broker.
type login struct {
	mechanism string
	response  string

	// properties is the table of client properties that the library sends. The library
	// adds its capabilities to it and then asks for the response: that is the only
	// moment at which further capabilities can be added.
	properties amqp.Table
}

func newLogin(o Options, properties amqp.Table) *login {
	l := &login{mechanism: o.LoginMethod, properties: properties}
	switch o.LoginMethod {
	case Plain:
		l.response = "\x00" + o.Login + "\x00" + o.Password
	case AMQPlain:
		l.response = tableEntry("LOGIN", o.Login) + tableEntry("PASSWORD", o.Password)
	}
	return l
}

// Mechanism implements [amqp.Authentication].
func (l *login) Mechanism() string { return l.mechanism }

// Response implements [amqp.Authentication].
func (l *login) Response() string {
	// Without this capability, RabbitMQ refuses a password by closing the socket
	// without a reason. That looks the same as a broker that is shutting down.
	if c, ok := l.properties["capabilities"].(amqp.Table); ok {
		c["authentication_failure_close"] = true
	}
	return l.response
}

// Format keeps the password out of printed connection settings.
func (l *login) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "login by %s", l.mechanism) }

// tableEntry returns an entry of a field table, with a string value, as on the wire.
func tableEntry(name, value string) string {
	b := append([]byte{byte(len(name))}, name...)
	b = append(b, 'S')
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	return string(append(b, value...))
}
