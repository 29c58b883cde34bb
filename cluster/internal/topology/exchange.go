package topology

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/broker"
)

// An exchangeState says what there is of the direct exchange.
type exchangeState int

const (
	absent exchangeState = iota
	present
	created // just now, without bindings
)

// errNoPlugin is returned if the broker does not know the type of the direct exchange.
var errNoPlugin = errors.New("unknown type of exchange")

// declareDirect declares the direct exchange. It is absent if the broker lacks the plugin
// for it, or forbids it: then callers have the shared queue alone.
func (t *Topology) declareDirect(ctx context.Context, sharedDown bool) (exchangeState, error) {
	state, err := t.tryDeclareDirect(ctx, sharedDown)
	var why string
	switch {
	case errors.Is(err, errNoPlugin):
		why = "the broker lacks a plugin: run rabbitmq-plugins enable rabbitmq_consistent_hash_exchange on each of its nodes"
	case broker.IsCode(err, amqp.AccessRefused):
		why = "the broker's user may not configure, write and read ^glotpod"
	default:
		return state, err
	}
	t.o.Log.Warn("requests come by "+RequestExchange+" alone, and not by "+DirectExchange, zap.String("why", why), zap.Error(err))
	return absent, nil
}

// tryDeclareDirect declares the direct exchange and its alternate exchange, which leads
// to the shared queue, unless that queue is down. A direct exchange that was declared by
// another program without the alternate exchange is used as it is.
func (t *Topology) tryDeclareDirect(ctx context.Context, sharedDown bool) (exchangeState, error) {
	channel, err := t.o.Open()
	if err != nil {
		return absent, err
	}
	defer channel.Close()
	if err := channel.ExchangeDeclare(unroutedExchange, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		return absent, fmt.Errorf("declaring the exchange %s: %w", unroutedExchange, err)
	}
	if !sharedDown {
		if err := channel.QueueBind(RequestQueue, "", unroutedExchange, false, nil); err != nil {
			return absent, fmt.Errorf("binding the queue %s: %w", RequestQueue, err)
		}
	}

	exists, err := t.directExists()
	if err != nil {
		return absent, err
	}
	if !exists {
		if state, err := t.createDirect(ctx); state != present || err != nil {
			return state, err
		}
	}
	if err = declareHash(channel); !broker.IsCode(err, amqp.PreconditionFailed) {
		return present, err
	}
	t.o.Log.Warn("the exchange "+DirectExchange+" was declared by another program; requests that it has no queue for are lost", zap.Error(err))
	return present, nil
}

// directExists reports whether there is a direct exchange.
func (t *Topology) directExists() (bool, error) {
	channel, err := t.o.Open()
	if err != nil {
		return false, err
	}
	defer channel.Close()
	err = channel.ExchangeDeclarePassive(DirectExchange, hashExchange, true, false, false, false, nil)
	if err != nil && !broker.IsCode(err, amqp.NotFound) {
		return false, fmt.Errorf("looking for the exchange %s: %w", DirectExchange, err)
	}
	return err == nil, nil
}

// createDirect declares the direct exchange over a connection of its own: RabbitMQ 3.x closes the
// connection with 503 if it lacks the plugin. RabbitMQ 4.x closes the channel with 406, as it does if
// another program has declared the exchange meanwhile; then the exchange is present.
func (t *Topology) createDirect(ctx context.Context) (exchangeState, error) {
	channel, closeConnection, err := t.o.OpenApart(ctx)
	if err != nil {
		return absent, err
	}
	defer closeConnection()
	err = declareHash(channel)
	if !broker.IsCode(err, amqp.PreconditionFailed) && !broker.IsCode(err, amqp.CommandInvalid) {
		return created, err
	}
	exists, lookErr := t.directExists()
	if lookErr != nil {
		return absent, lookErr
	}
	if !exists {
		return absent, fmt.Errorf("%w: %w", errNoPlugin, err)
	}
	return present, nil
}

func declareHash(channel Channel) error {
	err := channel.ExchangeDeclare(DirectExchange, hashExchange, true, false, false, false,
		amqp.Table{"alternate-exchange": unroutedExchange})
	if err != nil {
		return fmt.Errorf("declaring the exchange %s: %w", DirectExchange, err)
	}
	return nil
}
