package publish

import (
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Channel is what a [Publisher] uses of an [amqp.Channel].
type Channel interface {
	Confirm(noWait bool) error
	Publish(exchange, key string, mandatory bool, m amqp.Publishing) (Confirmation, error)
	NotifyReturn(chan amqp.Return) chan amqp.Return
	NotifyClose(chan *amqp.Error) chan *amqp.Error

	// Ping publishes a message of so many bytes to no queue. It returns nil when the broker has handled
	// that and all earlier messages of the channel, and an error if the channel is closed. The channel
	// must be in confirm mode.
	Ping(bytes int) error

	IsClosed() bool
	Close() error
}

// A Confirmation is the broker's decision on a message. Done is closed when the broker
// has decided, or when the channel is closed.
type Confirmation interface {
	Done() <-chan struct{}
	Acked() bool
}

// Over returns a function that opens channels of conn.
func Over(conn *amqp.Connection) func() (Channel, error) {
	return func() (Channel, error) {
		c, err := conn.Channel()
		if err != nil {
			return nil, fmt.Errorf("opening a channel: %w", err)
		}
		return channel{c}, nil
	}
}

// A channel makes an [amqp.Channel] a Channel.
type channel struct{ *amqp.Channel }

func (c channel) Publish(exchange, key string, mandatory bool, m amqp.Publishing) (Confirmation, error) {
	confirmation, err := c.PublishWithDeferredConfirm(exchange, key, mandatory, false, m)
	if err != nil {
		return nil, err
	}
	if confirmation == nil {
		return nil, errors.New("the channel is not in confirm mode")
	}
	return confirmation, nil
}

// nowhere is the routing key of pings. No queue has this name, since RabbitMQ reserves the prefix.
const nowhere = "amq.glotpod.ident.nowhere"

// Ping does not call a method that has a reply: if the broker closes the channel at that moment, the
// client library may send the method after it has confirmed the close (channel.close-ok), and then the broker
// closes the connection. Before it sends a message, the library makes sure that the channel is open.
func (c channel) Ping(bytes int) error {
	confirmation, err := c.Publish("", nowhere, false, amqp.Publishing{Body: make([]byte, bytes)})
	if err != nil {
		return err
	}
	<-confirmation.Done()
	if !confirmation.Acked() {
		return ErrLost
	}
	return nil
}

// A line is a channel that messages are published on.
type line struct {
	channel Channel
	closed  chan *amqp.Error // receives when the channel is lost, and is closed
	synced  chan struct{}    // received from when all returns so far are noted
	drained chan struct{}    // closed with the channel, when all returns are noted
}

// openLine opens a channel in confirm mode. note is called with each message that the
// broker returns.
func openLine(open func() (Channel, error), note func(*amqp.Return)) (*line, error) {
	c, err := open()
	if err != nil {
		return nil, err
	}
	if err := c.Confirm(false); err != nil {
		c.Close() // an error means that it is closed already
		return nil, fmt.Errorf("asking for confirmations: %w", err)
	}
	l := &line{
		channel: c,
		closed:  c.NotifyClose(make(chan *amqp.Error, 1)),
		synced:  make(chan struct{}),
		drained: make(chan struct{}),
	}
	// Without a buffer: the connection goes on to the confirmation of a returned message
	// when the return was received.
	returns := c.NotifyReturn(make(chan amqp.Return))
	go func() {
		defer close(l.drained)
		for {
			select {
			case r, ok := <-returns:
				if !ok {
					return
				}
				note(&r)
			case l.synced <- struct{}{}:
			}
		}
	}()
	return l, nil
}

// awaitReturns waits until all messages that were returned so far are noted.
func (l *line) awaitReturns() {
	select {
	case <-l.synced:
	case <-l.drained:
	}
}
