package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/semaphore"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/rpc"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// The pauses before attempts to replace a lost connection.
	firstConnectPause   = 100 * time.Millisecond
	longestConnectPause = 5 * time.Second

	// connectTimeout bounds one attempt to connect.
	connectTimeout = 8 * time.Second

	// closeTimeout bounds the wait for the broker when a connection is closed.
	closeTimeout = time.Second
)

// A Client sends requests and receives their replies. It is safe for concurrent use.
type Client struct {
	o      Options
	room   *semaphore.Weighted // for the bytes of requests under way
	name   string              // begins the message ids
	number atomic.Uint64       // of the last message id

	ctx    context.Context // is done when the client is closed
	cancel context.CancelFunc
	ended  sync.WaitGroup // the client's own goroutine

	mu      sync.Mutex // guards the following fields
	link    *rpc.Link  // nil: there is no connection
	changed chan struct{}
	dialErr error // of the last attempt to connect
}

// Dial connects to the broker. ctx bounds the dial, and has no effect afterwards. The
// connection is replaced when it is lost, until the client is closed. Whether there is a service does
// not matter to Dial.
//
// Dial tries each address once, and does not try again by itself. If the broker refuses, there is an
// [*amqp.Error] in the chain of the error: with the code [amqp.AccessRefused] it refuses the login or the
// password, with [amqp.NotAllowed] the virtual host. Without one, the broker was not reached, or the options or
// certificates are wrong, as the text says; it never has the password.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if len(o.Name) > maxName || len(o.Login) > maxShortString {
		return nil, badRequest("the name has more than %d bytes, or the login more than %d", maxName, maxShortString)
	}
	c := &Client{o: o, room: semaphore.NewWeighted(maxUnderWay), name: rand.Text() + "-", changed: make(chan struct{})}
	conn, link, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	c.link = link
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.ended.Go(func() { c.keepConnected(conn, link) })
	return c, nil
}

// Close closes the connection. Requests that wait for a reply fail with [ErrNoReply], and
// calls of Watch end. Close may be called more than once. It takes at most about a second.
func (c *Client) Close() {
	c.cancel()
	c.ended.Wait()
}

// dial opens a connection and a link on it.
func (c *Client) dial(ctx context.Context) (*amqp.Connection, *rpc.Link, error) {
	conn, err := broker.Dial(ctx, c.o.broker())
	if err != nil {
		return nil, nil, err
	}
	release := closeWith(ctx, conn)
	link, err := rpc.Open(conn)
	if !release() || err != nil {
		conn.CloseDeadline(time.Now())
		return nil, nil, errors.Join(err, ctx.Err())
	}
	return conn, link, nil
}

// closeWith closes conn when ctx ends, since calls that wait for the broker ignore ctx, until
// release is called. release returns false if that has begun.
func closeWith(ctx context.Context, conn *amqp.Connection) (release func() bool) {
	return context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })
}

// keepConnected replaces the connection when it is lost, until the client is closed.
func (c *Client) keepConnected(conn *amqp.Connection, link *rpc.Link) {
	pause := wait.Backoff{First: firstConnectPause, Longest: longestConnectPause}
	for since := time.Now(); conn != nil; since = time.Now() {
		select {
		case <-link.Done():
		case <-c.ctx.Done():
		}
		c.setLink(nil, nil)
		conn.CloseDeadline(time.Now().Add(closeTimeout))
		link.Wait()
		if time.Since(since) > longestConnectPause {
			pause.Reset()
		}
		conn, link = c.connectAgain(&pause)
	}
}

// connectAgain connects until that succeeds. It returns nil if the client was closed.
func (c *Client) connectAgain(pause *wait.Backoff) (*amqp.Connection, *rpc.Link) {
	for pause.Wait(c.ctx) == nil {
		begin := time.Now()
		ctx, cancel := context.WithTimeout(c.ctx, connectTimeout)
		conn, link, err := c.dial(ctx)
		cancel()
		c.o.observe("connect", begin, 1, err)
		c.setLink(link, err)
		if err == nil {
			return conn, link
		}
	}
	return nil, nil
}

// setLink sets the link, nil if there is none, and the error of the last attempt to connect.
func (c *Client) setLink(link *rpc.Link, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link, c.dialErr = link, err
	close(c.changed)
	c.changed = make(chan struct{})
}

// current returns the link. If there is none, it waits for one until the deadline, or until ctx
// ends.
func (c *Client) current(ctx context.Context, deadline time.Time) (*rpc.Link, error) {
	c.mu.Lock()
	link := c.link
	c.mu.Unlock()
	if isOpen(link) {
		return link, nil
	}
	ctx, cancel := withDeadline(ctx, deadline)
	defer cancel()
	for {
		c.mu.Lock()
		link, changed, dialErr := c.link, c.changed, c.dialErr
		c.mu.Unlock()
		switch {
		case c.ctx.Err() != nil:
			return nil, ErrClosed
		case isOpen(link):
			return link, nil
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
		case <-ctx.Done():
			if dialErr != nil {
				return nil, fmt.Errorf("%w: %w: %w", ErrNotSent, ctx.Err(), dialErr)
			}
			return nil, fmt.Errorf("%w: %w", ErrNotSent, ctx.Err())
		}
	}
}

// isOpen reports whether there is a link that is not about to be replaced.
func isOpen(link *rpc.Link) bool {
	if link == nil {
		return false
	}
	select {
	case <-link.Done():
		return false
	default:
		return true
	}
}

// newMessageID returns an id that no other request of any client has.
func (c *Client) newMessageID() string {
	return c.name + strconv.FormatUint(c.number.Add(1), 36)
}
