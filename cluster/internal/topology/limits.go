package topology

import (
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/broker"
)

// ownChannels is how many channels a connection needs at most beside one for each partition:
// one each for the shared queue, notifications, forwarded requests and the members, and some
// for a short time each, which declare, look for reply queues or are being closed.
const ownChannels = 16

// ChannelsNeeded returns how many channels a connection of an instance needs, which may have
// to serve all partitions.
func ChannelsNeeded(partitions int) int { return partitions + ownChannels }

// CheckChannels returns a [SetupError] if a connection may have fewer channels than
// an instance needs. allowed is what the two sides have agreed on.
func CheckChannels(allowed, partitions int) error {
	if needed := ChannelsNeeded(partitions); allowed < needed {
		return &SetupError{"the broker allows too few channels for each connection (channel_max)",
			fmt.Errorf("%d are allowed, and %d needed for %d partitions", allowed, needed, partitions)}
	}
	return nil
}

// QueueLimitError returns the [SetupError] for a queue that the broker refuses to make
// although there is none of its name. err is the refusal.
func QueueLimitError(partitions int, err error) error {
	return &SetupError{fmt.Sprintf("the broker makes no more queues (max-queues): needed are %d, two more for each instance, and one for each command that runs", partitions+1), err}
}

// A SetupError means that the broker is not set up as the service needs it. Only the
// broker's operator can change that.
type SetupError struct {
	What string // is wrong
	err  error
}

func (e *SetupError) Error() string { return e.What + ": " + e.err.Error() }

func (e *SetupError) Unwrap() error { return e.err }

// asSetupError wraps err in a SetupError if only the broker's operator can remove its
// cause, unless err is one.
func asSetupError(err error) error {
	var setup *SetupError
	switch {
	case errors.As(err, &setup):
		return err
	case broker.IsCode(err, amqp.AccessRefused):
		return &SetupError{"the broker's user may not configure, write and read ^glotpod and amq.topic", err}
	case broker.IsCode(err, amqp.PreconditionFailed):
		return &SetupError{"the broker has something of the same name and another kind", err}
	}
	return err
}
