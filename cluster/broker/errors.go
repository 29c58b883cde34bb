package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Stage is the step of a dial.
type Stage string

const (
	Preparing  Stage = "prepare"
	Connecting Stage = "connect"
	Securing   Stage = "secure the connection"
	LoggingIn  Stage = "log in"
)

// A DialError is the error of a dial. Its text never contains the password.
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

// Refused reports whether err stays as it is until an operator acts: the login, the
// virtual host or a permission was refused, one side does not accept the other's
// certificate, or the options make no sense. Of several nodes, one that refuses is enough.
// Any other error of a dial, of a connection or of a channel means that the broker could
// not be reached or has gone, and may pass.
func Refused(err error) bool {
	if all, ok := errors.AsType[nodeErrors](err); ok {
		return slices.ContainsFunc(all, Refused)
	}
	if errors.Is(err, errOptions) || errors.Is(err, amqp.ErrSASL) {
		return true
	}
	if e, ok := errors.AsType[*amqp.Error](err); ok {
		// NotAllowed is the reply if the virtual host does not exist or the user has
		// no access to it, and if the user has as many connections as it may have.
		return e.Server && (e.Code == amqp.AccessRefused || e.Code == amqp.NotAllowed)
	}
	// With TLS 1.3 the broker checks our certificate after the handshake, so a
	// refusal of the certificate appears during the log-in.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return true
	}
	if e, ok := errors.AsType[*DialError](err); ok && e.Stage == Securing {
		return !isInterruption(e.Err)
	}
	return false
}

// LoginRefused reports whether err is the error of a dial in which the broker refused
// the user, the password or the login method. These come from the settings, so a
// further dial with the same settings does not help. Other refusals can pass without a
// change of the settings: a virtual host is created, a certificate is renewed, another
// connection of the user is closed.
//
// If several nodes were dialled, each one must have refused: a single one may be new, and know no
// users yet.
func LoginRefused(err error) bool {
	if all, ok := errors.AsType[nodeErrors](err); ok {
		return !slices.ContainsFunc(all, func(one error) bool { return !LoginRefused(one) })
	}
	dial, ok := errors.AsType[*DialError](err)
	if !ok || dial.Stage != LoggingIn {
		return false
	}
	e, ok := errors.AsType[*amqp.Error](dial.Err)
	return errors.Is(dial.Err, amqp.ErrSASL) || ok && e.Server && e.Code == amqp.AccessRefused
}

// nodeErrors are the errors of a dial to several nodes, one for each that was tried.
type nodeErrors []error

func (e nodeErrors) Error() string {
	texts := make([]string, len(e))
	for i, one := range e {
		texts[i] = one.Error()
	}
	return strings.Join(texts, "; ")
}

func (e nodeErrors) Unwrap() []error { return e }

// IsCode reports whether err is an error by which the broker closes a channel or a
// connection, with this reply code.
func IsCode(err error, code int) bool {
	e, ok := errors.AsType[*amqp.Error](err)
	return ok && e.Code == code
}

// isInterruption reports whether a TLS handshake failed for another reason than a
// disagreement of the two sides.
func isInterruption(err error) bool {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return false // the peer does not speak TLS
	}
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled)
}
