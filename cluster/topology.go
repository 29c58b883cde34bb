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
// has to be there. Where the broker cannot do that, because it lacks the plugin
// for consistent hashing, callers have the other way.
func declareDirect(ctx context.Context, conn *amqp.Connection, o Options) error {
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
	if channel.ExchangeDeclarePassive(directExchange, "x-consistent-hash", true, false, false, false, nil) == nil {
		return nil
	}
	err = declareHash(ctx, o.Broker)
	var refusal *amqp.Error
	if errors.As(err, &refusal) && refusal.Code == amqp.CommandInvalid {
		o.Log.Warn("requests can come by "+requestExchange+" alone, not by "+directExchange+
			": the broker lacks a plugin; run rabbitmq-plugins enable rabbitmq_consistent_hash_exchange on each of its nodes", zap.Error(err))
		return nil
	}
	return err
}

// declareHash declares the direct exchange over a connection of its own, since a
// broker without the plugin closes the connection.
func declareHash(ctx context.Context, o broker.Options) error {
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
	err = channel.ExchangeDeclare(directExchange, "x-consistent-hash", true, false, false, false,
		amqp.Table{"alternate-exchange": unroutedExchange})
	if err != nil {
		return fmt.Errorf("declaring the exchange %s: %w", directExchange, err)
	}
	return nil
}
