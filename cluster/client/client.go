// Package client calls the identity service from Go. It is for the service's callers
// and its own commands.
//
// A [Client] sends requests and waits for their replies, over one channel of a broker
// connection that the caller provides. It does not encode requests or decode replies,
// apart from those of [Client.Changes], and it does not retry or reconnect: these are
// left to its user. A request that is sent again under
// the same message id is not applied twice.
package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/topology"
)

// ErrNoService means that the broker has no queue for requests: no instance of the
// service has ever run there.
var ErrNoService = errors.New("no identity service at this broker: there is no queue for the request")

// replyQueue stands for the client's own channel in RabbitMQ's direct reply-to.
const replyQueue = "amq.rabbitmq.reply-to"

// A Client sends requests and receives their replies. It is safe for concurrent use.
type Client struct {
	channel channel

	mu      sync.Mutex              // guards the following fields
	waiting map[string]chan<- reply // by correlation id
	err     error                   // why no reply will come any more
}

// A channel is what a client uses of an [amqp.Channel].
type channel interface {
	Consume(queue, consumer string, autoAck, exclusive, noLocal, noWait bool, args amqp.Table) (<-chan amqp.Delivery, error)
	NotifyReturn(chan amqp.Return) chan amqp.Return
	PublishWithContext(ctx context.Context, exchange, key string, mandatory, immediate bool, msg amqp.Publishing) error
}

type reply struct {
	body []byte
	err  error
}

// NewClient opens a channel of conn and returns a client that uses it until conn is
// closed.
func NewClient(conn *amqp.Connection) (*Client, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("opening a channel: %w", err)
	}
	return newClient(channel)
}

func newClient(channel channel) (*Client, error) {
	// Both end when the channel is closed.
	returned := channel.NotifyReturn(make(chan amqp.Return, 16))
	replies, err := channel.Consume(replyQueue, "", true, false, false, false, nil)
	if err != nil {
		return nil, fmt.Errorf("consuming replies: %w", err)
	}
	c := &Client{channel: channel, waiting: make(map[string]chan<- reply)}
	go c.receive(replies, returned)
	return c, nil
}

// Call sends a request with the given body and message id to the shared queue, and
// returns the body of the reply. If the message id is empty, Call generates one.
func (c *Client) Call(ctx context.Context, operation, messageID string, body []byte) ([]byte, error) {
	return c.call(ctx, topology.RequestExchange, topology.RequestPrefix+operation, amqp.Publishing{MessageId: messageID, Body: body})
}

// CallDirect is like [Client.Call], but sends the request directly to the partition of
// the user that it is about. Requests about one user that are sent this way one after
// another are carried out in that order, unless the partitions' queues are being bound
// again at that moment.
func (c *Client) CallDirect(ctx context.Context, userID int64, operation, messageID string, body []byte) ([]byte, error) {
	return c.call(ctx, topology.DirectExchange, strconv.FormatInt(userID, 10), amqp.Publishing{
		Type: topology.RequestPrefix + operation, MessageId: messageID, Body: body,
	})
}

func (c *Client) call(ctx context.Context, exchange, key string, request amqp.Publishing) ([]byte, error) {
	if request.MessageId == "" {
		request.MessageId = uuid.NewString()
	}
	correlationID := uuid.NewString()
	replied := make(chan reply, 1)
	if err := c.await(correlationID, replied); err != nil {
		return nil, err
	}
	defer c.forget(correlationID)
	request.ReplyTo = replyQueue
	request.CorrelationId = correlationID
	request.ContentType = "application/msgpack"
	request.DeliveryMode = amqp.Persistent
	if err := c.channel.PublishWithContext(ctx, exchange, key, true, false, request); err != nil {
		return nil, fmt.Errorf("sending the request: %w", err)
	}
	select {
	case r := <-replied:
		return r.body, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the reply: %w", ctx.Err())
	}
}

func (c *Client) await(correlationID string, replied chan<- reply) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting[correlationID] = replied
	return c.err
}

func (c *Client) forget(correlationID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, correlationID)
}

// receive passes replies and returned requests to the calls that wait for them, until
// the channel is closed.
func (c *Client) receive(replies <-chan amqp.Delivery, returned <-chan amqp.Return) {
	for {
		select {
		case d, ok := <-replies:
			if !ok {
				c.fail(errors.New("the connection was lost"))
				return
			}
			c.complete(d.CorrelationId, reply{body: d.Body})
		case r, ok := <-returned:
			if !ok {
				returned = nil // replies is closed as well
				continue
			}
			c.complete(r.CorrelationId, reply{err: ErrNoService})
		}
	}
}

// complete passes r to the call with this correlation id, if it still waits.
func (c *Client) complete(correlationID string, r reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if replied, ok := c.waiting[correlationID]; ok {
		replied <- r
		delete(c.waiting, correlationID)
	}
}

// fail ends all waiting and future calls with err.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for id, replied := range c.waiting {
		replied <- reply{err: err}
		delete(c.waiting, id)
	}
}
