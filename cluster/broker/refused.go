package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Stage is how far a dial got.
type Stage string

const (
	Preparing  Stage = "prepare"
	Connecting Stage = "connect"
	Securing   Stage = "secure the connection"
	LoggingIn  Stage = "log in"
)

// A DialError says why a dial failed. Its text never holds the password.
type DialError struct {
	Address string // host:port
	VHost   string
	Stage   Stage
	Err     error
}

func (e *DialError) Error() string {
	return fmt.Sprintf("RabbitMQ at %s, virtual host %q: %s: %v", e.Address, e.VHost, e.Stage, e.Err)
}

func (e *DialError) Unwrap() error { return e.Err }

// Refused reports whether err will stay as it is until an operator acts: the
// login, the virtual host or a permission was refused, one side does not accept
// the other's certificate, or the options make no sense. Any other error of a
// dial, of a connection or of a channel is about a broker that could not be
// reached or has gone, and may pass.
func Refused(err error) bool {
	if errors.Is(err, errOptions) || errors.Is(err, amqp.ErrSASL) {
		return true
	}
	if e, ok := errors.AsType[*amqp.Error](err); ok {
		// NotAllowed is the answer to a virtual host that does not exist or is
		// not this user's, and to one connection more than is allowed.
		return e.Server && (e.Code == amqp.AccessRefused || e.Code == amqp.NotAllowed)
	}
	// With TLS 1.3 the broker judges our certificate after the handshake, so
	// that its refusal is found in the log-in.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return true
	}
	if e, ok := errors.AsType[*DialError](err); ok && e.Stage == Securing {
		return !isInterruption(e.Err)
	}
	return false
}

// isInterruption reports whether a TLS handshake failed for a reason that is no
// disagreement of the two sides.
func isInterruption(err error) bool {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return false // the peer does not speak TLS
	}
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled)
}
