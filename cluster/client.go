package cluster

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrNoService says that no instance has ever made the queue that requests go
// to.
var ErrNoService = errors.New("no identity service at this broker: there is no queue for the request")

// A Client asks the service as its callers do. It is safe for concurrent use.
type Client struct {
	channel *amqp.Channel

	mu      sync.Mutex              // guards the following fields
	waiting map[string]chan<- reply // by correlation id
	err     error                   // why no more answers come
}

type reply struct {
	body []byte
	err  error
}

// NewClient returns a client that uses a channel of its own of conn, and ends
// with it.
func NewClient(conn *amqp.Connection) (*Client, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("opening a channel: %w", err)
	}
	// Both end when the channel does.
	returned := channel.NotifyReturn(make(chan amqp.Return, 16))
	answers, err := channel.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
	if err != nil {
		return nil, fmt.Errorf("consuming answers: %w", err)
	}
	c := &Client{channel: channel, waiting: make(map[string]chan<- reply)}
	go c.receive(answers, returned)
	return c, nil
}

// Call sends a request with the given body and message id, and returns the body
// of the answer. With an empty message id, it makes one up.
func (c *Client) Call(ctx context.Context, operation, messageID string, body []byte) ([]byte, error) {
	return c.call(ctx, requestExchange, requestPrefix+operation, amqp.Publishing{MessageId: messageID, Body: body})
}

// CallDirect is Call for a request about one user, to whose partition it goes at
// once. Requests about a user that are sent so, one after another, are carried
// out in that order, unless the exchange's queues are bound anew just then.
func (c *Client) CallDirect(ctx context.Context, userID int64, operation, messageID string, body []byte) ([]byte, error) {
	return c.call(ctx, directExchange, strconv.FormatInt(userID, 10), amqp.Publishing{
		Type: requestPrefix + operation, MessageId: messageID, Body: body,
	})
}

func (c *Client) call(ctx context.Context, exchange, key string, request amqp.Publishing) ([]byte, error) {
	if request.MessageId == "" {
		request.MessageId = uuid.NewString()
	}
	correlationID := uuid.NewString()
	answer := make(chan reply, 1)
	if err := c.await(correlationID, answer); err != nil {
		return nil, err
	}
	defer c.forget(correlationID)
	request.ReplyTo = "amq.rabbitmq.reply-to"
	request.CorrelationId = correlationID
	request.ContentType = "application/msgpack"
	request.DeliveryMode = amqp.Persistent
	if err := c.channel.PublishWithContext(ctx, exchange, key, true, false, request); err != nil {
		return nil, fmt.Errorf("sending the request: %w", err)
	}
	select {
	case r := <-answer:
		return r.body, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the answer: %w", ctx.Err())
	}
}

func (c *Client) await(correlationID string, answer chan<- reply) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting[correlationID] = answer
	return c.err
}

func (c *Client) forget(correlationID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, correlationID)
}

func (c *Client) receive(answers <-chan amqp.Delivery, returned <-chan amqp.Return) {
	for {
		select {
		case d, ok := <-answers:
			if !ok {
				c.close(errors.New("the connection was lost"))
				return
			}
			c.tell(d.CorrelationId, reply{body: d.Body})
		case r, ok := <-returned:
			if !ok {
				returned = nil // answers ends as well
				continue
			}
			c.tell(r.CorrelationId, reply{err: ErrNoService})
		}
	}
}

func (c *Client) tell(correlationID string, r reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.waiting[correlationID]; ok {
		answer <- r
		delete(c.waiting, correlationID)
	}
}

// close tells all who wait that no answer will come.
func (c *Client) close(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for id, answer := range c.waiting {
		answer <- reply{err: err}
		delete(c.waiting, id)
	}
}
