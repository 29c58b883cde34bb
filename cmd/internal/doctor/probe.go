package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cmd/internal/connect"
)

// A prober tries what an instance needs, on a queue and an exchange of its own.
type prober struct {
	conn  *amqp.Connection
	name  string // of the queue and the exchange
	facts *brokerFacts
}

// try calls do with a channel of its own, because the broker closes the channel of what it
// refuses.
func (p *prober) try(do func(*amqp.Channel) error) error {
	channel, err := p.conn.Channel()
	if err != nil {
		return err
	}
	defer channel.Close() // an error means that it is closed already
	return do(channel)
}

// tryPermissions tries each kind of operation. The exchange receives nothing, so no message gets
// to amq.topic.
func (p *prober) tryPermissions(ctx context.Context) error {
	for _, trial := range []struct {
		what string
		do   func(*amqp.Channel) error
	}{
		{"declare queues named glotpod…", func(c *amqp.Channel) error {
			_, err := c.QueueDeclare(p.name, false, true, true, false, nil)
			return err
		}},
		{"declare exchanges named glotpod…", func(c *amqp.Channel) error {
			return c.ExchangeDeclare(p.name, amqp.ExchangeFanout, false, true, false, false, nil)
		}},
		{"bind queues to exchanges named glotpod…", func(c *amqp.Channel) error { return c.QueueBind(p.name, "", p.name, false, nil) }},
		{"bind queues to amq.topic", func(c *amqp.Channel) error {
			return c.QueueBind(p.name, "rpc.user."+p.name, cluster.RequestExchange, false, nil)
		}},
		{"publish to amq.topic", func(c *amqp.Channel) error {
			if err := c.ExchangeBind(cluster.RequestExchange, p.name, p.name, false, nil); err != nil {
				return err
			}
			// The binding would keep the exchange when the queue is gone.
			return c.ExchangeUnbind(cluster.RequestExchange, p.name, p.name, false, nil)
		}},
		{"publish to the default exchange", func(c *amqp.Channel) error { return p.publish(ctx, c, p.name, []byte("doctor")) }},
		{"consume queues named glotpod…", p.consume},
	} {
		err := p.try(trial.do)
		switch {
		case broker.IsCode(err, amqp.AccessRefused):
			p.facts.denied = append(p.facts.denied, trial.what)
		case broker.IsCode(err, amqp.PreconditionFailed):
			p.facts.noQueue = true
		case err != nil && len(p.facts.denied) == 0 && !p.facts.noQueue:
			return fmt.Errorf("try to %s: %w", trial.what, err)
		}
	}
	return p.try(func(c *amqp.Channel) error { return ignoreRefusal(c.ExchangeDelete(p.name, false, false)) })
}

// cleanUp deletes what does not go with the connection, over another one: the exchanges, if the
// connection was lost before something was bound to them.
func (p *prober) cleanUp(ctx context.Context, o broker.Options) {
	ctx, cancel := context.WithTimeout(ctx, hostTimeout)
	defer cancel()
	conn, err := broker.Dial(ctx, o)
	if err != nil {
		return
	}
	defer connect.Close(conn)
	defer context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })()
	again := prober{conn: conn}
	for _, exchange := range []string{p.name, p.hashName()} {
		again.try(func(c *amqp.Channel) error { return c.ExchangeDelete(exchange, false, false) })
	}
	again.try(func(c *amqp.Channel) error {
		_, err := c.QueueDelete(p.defaultName(), false, false, false)
		return err
	})
}

func (p *prober) hashName() string    { return p.name + "/hash" }
func (p *prober) defaultName() string { return p.name + "/default" }

// publish publishes a message to the default exchange, and waits until the broker has taken or
// refused it.
func (p *prober) publish(ctx context.Context, c *amqp.Channel, queue string, body []byte) error {
	if err := c.PublishWithContext(ctx, "", queue, false, false, amqp.Publishing{Body: body}); err != nil {
		return err
	}
	return c.ExchangeDeclarePassive(cluster.RequestExchange, amqp.ExchangeTopic, true, false, false, false, nil)
}

// consumeTimeout is how long a message may take from publish to the consumer.
const consumeTimeout = 5 * time.Second

// consume receives the message that was published.
func (p *prober) consume(c *amqp.Channel) error {
	deliveries, err := c.Consume(p.name, "", true, false, false, false, nil)
	if err != nil {
		return err
	}
	select {
	case _, ok := <-deliveries:
		if !ok {
			return errors.New("the broker has closed the channel")
		}
	case <-time.After(consumeTimeout):
		if !slices.Contains(p.facts.denied, "publish to the default exchange") {
			return errors.New("the message did not come")
		}
	}
	return nil
}

// tryPlugin declares a consistent-hash exchange over a connection of its own, which a broker
// without the plugin closes.
func (p *prober) tryPlugin(ctx context.Context, o broker.Options) error {
	conn, err := broker.Dial(ctx, o)
	if err != nil {
		p.facts.unasked = err
		return nil
	}
	defer connect.Close(conn)
	defer context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })()
	apart := prober{conn: conn}
	err = apart.try(func(c *amqp.Channel) error {
		if err := c.ExchangeDeclare(p.hashName(), "x-consistent-hash", false, true, false, false, nil); err != nil {
			return err
		}
		return c.ExchangeDelete(p.hashName(), false, false)
	})
	p.facts.plugin = !lacksPlugin(err)
	if !p.facts.plugin {
		return nil
	}
	return ignoreRefusal(err)
}

// lacksPlugin reports whether the broker does not know the type of an exchange with a new name. From
// version 4 on it closes only the channel then, with the code of a declaration with other arguments.
func lacksPlugin(err error) bool {
	return broker.IsCode(err, amqp.CommandInvalid) || broker.IsCode(err, amqp.PreconditionFailed)
}

// expiry is when the broker deletes the queue that defaultKind declares, if this program dies
// before, in milliseconds.
const expiry = int32(60_000)

// defaultKind returns the type of a durable queue that is declared without one. It declares one,
// because the default does not hold for exclusive queues.
func (p *prober) defaultKind() (kind string, err error) {
	name := p.defaultName()
	declare := func(kind string) error {
		arguments := amqp.Table{"x-expires": expiry}
		if kind != "" {
			arguments["x-queue-type"] = kind
		}
		return p.try(func(c *amqp.Channel) error {
			_, err := c.QueueDeclare(name, true, false, false, false, arguments)
			return err
		})
	}
	if err := declare(""); err != nil {
		return "", fmt.Errorf("declare the queue %s: %w", name, err)
	}
	kind = "classic"
	if err := declare("quorum"); err == nil {
		kind = "quorum"
	} else if !broker.IsCode(err, amqp.PreconditionFailed) {
		return "", fmt.Errorf("declare the queue %s: %w", name, err)
	}
	err = p.try(func(c *amqp.Channel) error {
		_, err := c.QueueDelete(name, false, false, false)
		return err
	})
	return kind, err
}

const (
	// pageBytes is the size of the reply with a full page.
	pageBytes = 4 << 20

	// notificationFactor is how many times larger a notification can be than its request.
	notificationFactor = 6

	// maxTried bounds the size of a message that is tried.
	maxTried = 32 << 20
)

// trySizes sends messages to no queue, until one is refused.
func (p *prober) trySizes(ctx context.Context, body int) error {
	if len(p.facts.denied) > 0 {
		return nil
	}
	for _, size := range []int{pageBytes, min(notificationFactor*body, maxTried)} {
		if size <= p.facts.largest {
			continue
		}
		err := p.try(func(c *amqp.Channel) error { return p.publish(ctx, c, p.name+"/nobody", make([]byte, size)) })
		if broker.IsCode(err, amqp.PreconditionFailed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("publish a message of %d bytes: %w", size, err)
		}
		p.facts.largest = size
	}
	return nil
}

// ignoreRefusal returns nil if err says that the user may not do something.
func ignoreRefusal(err error) error {
	if broker.IsCode(err, amqp.AccessRefused) {
		return nil
	}
	return err
}
