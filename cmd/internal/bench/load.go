package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/client"
	"github.com/glotpod/ident/cmd/internal/connect"
)

const (
	// maxConnections is the number of connections that share the requests in flight.
	maxConnections = 4

	// replyTimeout is far more than any reply takes.
	replyTimeout = 30 * time.Second
)

// A route returns where a request is published.
type route func(r request, m *amqp.Publishing) (exchange, key string)

// sharedRoute leads to the queue that all instances share.
func sharedRoute(r request, _ *amqp.Publishing) (exchange, key string) {
	return "amq.topic", r.operation
}

// directRoute leads to the queue of the user's partition.
func directRoute(r request, m *amqp.Publishing) (exchange, key string) {
	m.Type = r.operation
	return "glotpod.ident", r.user
}

// work describes a load. Its functions must be safe for concurrent use.
type work struct {
	next       func() (request, bool) // false: there are no more requests
	way        route
	persistent bool
	onReply    func(r request, reply []byte) error // nil: replies are only checked for errors
	byClient   bool                                // the Go client sends the requests
	likeClient bool                                // over one connection, with the properties that the Go client sets
}

// A loadResult is the result of one run of a load.
type loadResult struct {
	lasted    time.Duration
	inTime    int // replies within lasted; the replies to the last requests come later
	writes    int // replies to requests that change a user
	latencies histogram
}

func (s *loadResult) merge(other *loadResult) {
	s.lasted = max(s.lasted, other.lasted)
	s.inTime += other.inTime
	s.writes += other.writes
	s.latencies.merge(&other.latencies)
}

// A loadGenerator sends requests as many callers would: each sends a request as soon as
// it has the reply to the last. The service and the baselines get the same load.
type loadGenerator struct {
	conns  []*loadConn
	client *client.Client
}

func openLoadGenerator(ctx context.Context, o broker.Options) (*loadGenerator, error) {
	l := new(loadGenerator)
	for range maxConnections {
		c, err := openLoadConn(ctx, o)
		if err != nil {
			l.close()
			return nil, err
		}
		l.conns = append(l.conns, c)
	}
	var err error
	if l.client, err = connect.ClientWith(ctx, o); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *loadGenerator) close() {
	if l.client != nil {
		l.client.Close()
	}
	for _, c := range l.conns {
		connect.Close(c.conn)
	}
}

// run keeps inFlight requests in flight for the given time, until there are no more
// requests, a request fails or ctx is done. It returns when all replies have arrived.
func (l *loadGenerator) run(ctx context.Context, w work, inFlight int, lasting time.Duration) (*loadResult, error) {
	if w.byClient {
		return l.runClient(ctx, w, inFlight, lasting)
	}
	begin := time.Now()
	conns := l.conns[:min(len(l.conns), inFlight)]
	if w.likeClient {
		conns = conns[:1]
	}
	slices := make([]*loadResult, len(conns))
	var group errgroup.Group
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, c := range conns {
		share := (inFlight + i) / len(conns)
		group.Go(func() (err error) {
			if slices[i], err = c.run(ctx, w, share, begin, lasting); err != nil {
				cancel()
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	whole := new(loadResult)
	for _, s := range slices {
		whole.merge(s)
	}
	return whole, ctx.Err()
}

// A loadConn is one connection of a load. One goroutine sends and receives: with two
// goroutines, each request would wait for the scheduler once more.
type loadConn struct {
	conn     *amqp.Connection
	channel  *amqp.Channel
	replies  <-chan amqp.Delivery
	returned <-chan amqp.Return
	login    string
	name     string // the prefix of message ids
	number   uint64 // of the last request
	flights  []flight
}

// A flight is a request in flight.
type flight struct {
	number  uint64 // has the index in flights in its low bits; 0: no request
	sent    time.Time
	request request
}

// placeBits is the number of bits of a request number that are the index in flights.
const placeBits = 16

func openLoadConn(ctx context.Context, o broker.Options) (_ *loadConn, err error) {
	conn, err := connect.DialWith(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			connect.Close(conn)
		}
	}()
	c := &loadConn{conn: conn, login: o.Login, name: rand.Text() + "-"}
	if c.channel, err = conn.Channel(); err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	c.returned = c.channel.NotifyReturn(make(chan amqp.Return, 1))
	if c.replies, err = c.channel.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil); err != nil {
		return nil, fmt.Errorf("consume replies: %w", err)
	}
	return c, nil
}

var errConnectionLost = errors.New("the connection to RabbitMQ was lost")

func (c *loadConn) run(ctx context.Context, w work, inFlight int, begin time.Time, lasting time.Duration) (*loadResult, error) {
	slice := &loadResult{lasted: lasting}
	end := begin.Add(lasting)
	look := time.NewTicker(replyTimeout / 6)
	defer look.Stop()
	c.flights = make([]flight, inFlight)
	var failure error
	underWay := 0
	send := func(place int) {
		if failure != nil || ctx.Err() != nil {
			return
		}
		request, more := w.next()
		if !more {
			return
		}
		if failure = c.send(w, place, request); failure == nil {
			underWay++
		}
	}
	for place := range inFlight {
		send(place)
	}
	for underWay > 0 {
		select {
		case d, ok := <-c.replies:
			if !ok {
				return nil, errConnectionLost
			}
			now := time.Now()
			place := c.flightOf(d.CorrelationId)
			if place < 0 {
				continue // the reply to a request of an earlier run that failed
			}
			flight := c.flights[place]
			c.flights[place].number = 0
			underWay--
			slice.latencies.add(now.Sub(flight.sent))
			if flight.request.operation != getOperation {
				slice.writes++
			}
			if err := flight.finish(w, d.Body); err != nil && failure == nil {
				failure = err
			}
			if now.Before(end) {
				slice.inTime++
				send(place)
			}
		case r, ok := <-c.returned:
			if !ok {
				return nil, errConnectionLost
			}
			return nil, fmt.Errorf("%s: %w", r.RoutingKey, client.ErrNoService)
		case now := <-look.C:
			for _, f := range c.flights {
				if f.number != 0 && now.Sub(f.sent) > replyTimeout {
					return nil, fmt.Errorf("no reply to %s within %v", f.request.operation, replyTimeout)
				}
			}
		}
	}
	return slice, failure
}

func (c *loadConn) send(w work, place int, r request) error {
	c.number++
	number := c.number<<placeBits | uint64(place)
	id := strconv.FormatUint(number, 36)
	m := amqp.Publishing{
		ReplyTo:       "amq.rabbitmq.reply-to",
		CorrelationId: id,
		MessageId:     c.name + id,
		ContentType:   "application/msgpack",
		DeliveryMode:  amqp.Transient,
		Body:          r.body,
	}
	if w.persistent {
		m.DeliveryMode = amqp.Persistent
	}
	if w.likeClient {
		m.UserId, m.AppId, m.Expiration = c.login, c.name, "30000"
	}
	exchange, key := w.way(r, &m)
	c.flights[place] = flight{number: number, sent: time.Now(), request: r}
	if err := c.channel.Publish(exchange, key, true, false, m); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	return nil
}

// flightOf returns the index in flights of the request with this correlation id, -1 if
// it is not in flight.
func (c *loadConn) flightOf(id string) int {
	number, err := strconv.ParseUint(id, 36, 64)
	place := int(number & (1<<placeBits - 1))
	if err != nil || place >= len(c.flights) || c.flights[place].number != number {
		return -1
	}
	return place
}

// finish checks the reply to a request.
func (f flight) finish(w work, reply []byte) error {
	if !bytes.HasPrefix(reply, []byte("\x81\xa6result")) {
		return fmt.Errorf("a request failed: %s: %s", strings.TrimPrefix(f.request.operation, "rpc.user."), errorCode(reply))
	}
	if w.onReply == nil {
		return nil
	}
	return w.onReply(f.request, reply)
}

// errorCode returns the error code of an error reply.
func errorCode(reply []byte) string {
	msg, err := msgpack.Decode(reply, msgpack.Limits{Bytes: math.MaxInt, Depth: 100, Values: math.MaxInt})
	if tree, ok := msg.Tree.(map[string]any); ok && err == nil {
		if code, ok := tree["error"].(string); ok {
			return code
		}
	}
	return "the reply has no form that the identity service sends"
}
