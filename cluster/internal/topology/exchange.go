package topology

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
)

// An exchangeState says what there is of the direct exchange.
type exchangeState int

const (
	absent exchangeState = iota
	present
	created // just now, without bindings
)

// declareDirect declares the direct exchange. It is absent if the broker lacks the plugin
// for it, or forbids it: then callers have the shared queue alone.
func (t *Topology) declareDirect(ctx context.Context, sharedDown bool) (exchangeState, error) {
	state, err := t.tryDeclareDirect(ctx, sharedDown)
	var refusal *amqp.Error
	if !errors.As(err, &refusal) {
		return state, err
	}
	var why string
	switch refusal.Code {
	case amqp.CommandInvalid:
		why = "the broker lacks a plugin: run rabbitmq-plugins enable rabbitmq_consistent_hash_exchange on each of its nodes"
	case amqp.AccessRefused:
		why = "the broker's user may not configure, write and read ^glotpod"
	default:
		return absent, err
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

	err = channel.ExchangeDeclarePassive(DirectExchange, hashExchange, true, false, false, false, nil)
	if IsCode(err, amqp.NotFound) {
		return created, t.declareHashApart(ctx)
	} else if err != nil {
		return absent, fmt.Errorf("looking for the exchange %s: %w", DirectExchange, err)
	}
	if err = declareHash(channel); !IsCode(err, amqp.PreconditionFailed) {
		return present, err
	}
	t.o.Log.Warn("the exchange "+DirectExchange+" was declared by another program; requests that it has no queue for are lost", zap.Error(err))
	return present, nil
}

// declareHashApart declares the direct exchange over a connection of its own, since a
// broker without the plugin closes the connection.
func (t *Topology) declareHashApart(ctx context.Context) error {
	channel, closeConnection, err := t.o.OpenApart(ctx)
	if err != nil {
		return err
	}
	defer closeConnection()
	return declareHash(channel)
}

func declareHash(channel Channel) error {
	err := channel.ExchangeDeclare(DirectExchange, hashExchange, true, false, false, false,
		amqp.Table{"alternate-exchange": unroutedExchange})
	if err != nil {
		return fmt.Errorf("declaring the exchange %s: %w", DirectExchange, err)
	}
	return nil
}
