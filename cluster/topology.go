package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/broker"
)

// Names that callers and subscribers know.
const (
	requestExchange = "amq.topic"
	requestQueue    = "glotpod.rpc/ident"
	requestKeys     = "rpc.user.#"
	requestPrefix   = "rpc.user."

	// directExchange takes requests whose routing key is the user's id and
	// whose type is what the routing key would be otherwise.
	directExchange = "glotpod.ident"
)

// unroutedExchange has what the direct exchange has no queue for, and leads to
// the shared queue.
const unroutedExchange = directExchange + ".unrouted"

// hashExchange is the type of the direct exchange, which a plugin provides.
const hashExchange = "x-consistent-hash"

// declareShared declares the shared queue, just as it has always been declared.
func declareShared(channel *amqp.Channel) error {
	if _, err := channel.QueueDeclare(requestQueue, true, false, false, false, nil); err != nil {
		return fmt.Errorf("declaring the queue %s: %w", requestQueue, err)
	}
	if err := channel.QueueBind(requestQueue, requestKeys, requestExchange, false, nil); err != nil {
		return fmt.Errorf("binding the queue %s: %w", requestQueue, err)
	}
	return nil
}

// declareDirect sees to it that the direct way leads to the shared queue, which
// has to be there. Where the broker lacks the plugin for it, or forbids it,
// callers have the other way.
func declareDirect(ctx context.Context, conn *amqp.Connection, o Options) error {
	err := tryDirect(ctx, conn, o)
	var refusal *amqp.Error
	if !errors.As(err, &refusal) {
		return err
	}
	var why string
	switch refusal.Code {
	case amqp.CommandInvalid:
		why = "the broker lacks a plugin: run rabbitmq-plugins enable rabbitmq_consistent_hash_exchange on each of its nodes"
	case amqp.AccessRefused:
		why = "the broker's user may not configure, write and read ^glotpod"
	default:
		return err
	}
	o.Log.Warn("requests come by "+requestExchange+" alone, and not by "+directExchange, zap.String("why", why), zap.Error(err))
	return nil
}

// tryDirect declares the direct exchange. If it is there already, but leads to
// nowhere, since somebody declared it without arguments, the shared queue is
// bound to it.
func tryDirect(ctx context.Context, conn *amqp.Connection, o Options) error {
	channel, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	defer channel.Close()
	if err := channel.ExchangeDeclare(unroutedExchange, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		return fmt.Errorf("declaring the exchange %s: %w", unroutedExchange, err)
	}
	if err := channel.QueueBind(requestQueue, "", unroutedExchange, false, nil); err != nil {
		return fmt.Errorf("binding the queue %s: %w", requestQueue, err)
	}

	err = channel.ExchangeDeclarePassive(directExchange, hashExchange, true, false, false, false, nil)
	if isCode(err, amqp.NotFound) {
		return declareOverOther(ctx, o.Broker)
	} else if err != nil {
		return fmt.Errorf("looking for the exchange %s: %w", directExchange, err)
	}
	if err = declareHash(channel); !isCode(err, amqp.PreconditionFailed) {
		return err
	}
	o.Log.Warn("the exchange "+directExchange+" was declared by somebody else; its requests come by the shared queue", zap.Error(err))
	if channel, err = conn.Channel(); err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	defer channel.Close()
	if err := channel.QueueBind(requestQueue, "1", directExchange, false, nil); err != nil {
		return fmt.Errorf("binding the queue %s: %w", requestQueue, err)
	}
	return nil
}

func isCode(err error, code int) bool {
	var e *amqp.Error
	return errors.As(err, &e) && e.Code == code
}

// declareOverOther declares the direct exchange over a connection of its own,
// since a broker without the plugin closes the connection.
func declareOverOther(ctx context.Context, o broker.Options) error {
	o.ConnectionName += " (declaring)"
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := broker.Dial(ctx, o)
	if err != nil {
		return err
	}
	defer conn.CloseDeadline(time.Now().Add(time.Second))
	channel, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	return declareHash(channel)
}

func declareHash(channel *amqp.Channel) error {
	err := channel.ExchangeDeclare(directExchange, hashExchange, true, false, false, false,
		amqp.Table{"alternate-exchange": unroutedExchange})
	if err != nil {
		return fmt.Errorf("declaring the exchange %s: %w", directExchange, err)
	}
	return nil
}
