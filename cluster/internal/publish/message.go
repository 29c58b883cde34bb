package publish

import (
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Outcomes of a message that was not accepted.
var (
	// ErrReturned means that no queue exists to which the message could go, although it is
	// mandatory.
	ErrReturned = errors.New("the broker has no queue for the message")

	// ErrRefused means that a queue takes no more.
	ErrRefused = errors.New("a queue has refused the message")

	// ErrUnconfirmed means that the broker has not decided in time. The message may have
	// been accepted.
	ErrUnconfirmed = errors.New("the broker has not confirmed the message in time")

	// ErrLost means that the connection was lost, that the channel was replaced, or that the
	// publisher has ended. The message may have been accepted.
	ErrLost = errors.New("the connection or the channel was lost before the message was confirmed")
)

// A RejectedError is the outcome of a message because of which the broker has closed the
// channel: it will not accept that message at any time.
type RejectedError struct{ Cause *amqp.Error }

func (e *RejectedError) Error() string {
	return fmt.Sprintf("the broker does not take the message: it has closed the channel with the code %d", e.Cause.Code)
}

func (e *RejectedError) Unwrap() error { return e.Cause }

// numberHeader has the number of a mandatory message, by which it is found when the
// broker returns it.
const numberHeader = "ident-hop"

// A Message is one that is to be published. It must not be changed afterwards.
type Message struct {
	Exchange, Key string
	Mandatory     bool // then Publishing.Headers, which must not be nil, gets the message's number
	Publishing    amqp.Publishing

	// Settled is called once with the outcome of the message: nil if the broker has accepted it. It
	// is called in a goroutine of its own if Wanted is nil.
	Settled func(error)

	// Wanted is asked immediately before the message is sent, also before it is sent again, unless it
	// is nil. If it returns false, the message is lost. Settled has then been called for all messages
	// before this one that were lost, given up or rejected, so the order can be kept. Wanted and
	// Settled must not call the publisher.
	Wanted func() bool

	number   uint64
	sent     time.Time
	line     *line // on which it was sent last
	returned bool
}

// fail calls Settled, in another goroutine by start if nothing depends on when it is called.
func (m *Message) fail(err error, start func(func())) {
	if m.Wanted != nil {
		m.Settled(err)
		return
	}
	start(func() { m.Settled(err) })
}
