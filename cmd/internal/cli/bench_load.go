package cli

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
	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/client"
)

const (
	// benchConnections is over how many connections requests are sent, where
	// so many are in flight.
	benchConnections = 4

	// benchAnswerTimeout is far more than any answer takes.
	benchAnswerTimeout = 30 * time.Second
)

// A benchWay says where a request is published to.
type benchWay func(r benchRequest, m *amqp.Publishing) (exchange, key string)

// sharedWay leads to the queue that all instances share.
func sharedWay(r benchRequest, _ *amqp.Publishing) (exchange, key string) {
	return "amq.topic", r.operation
}

// directWay leads to the queue of the user's partition.
func directWay(r benchRequest, m *amqp.Publishing) (exchange, key string) {
	m.Type = r.operation
	return "glotpod.ident", r.user
}

// benchWork is what a load consists of. Its functions are safe for concurrent
// use.
type benchWork struct {
	next       func() (benchRequest, bool) // false: there are no more
	way        benchWay
	persistent bool
	answered   func(r benchRequest, answer []byte) error // nil: nobody wants the answers
}

// A benchSlice is what a load came to in one go.
type benchSlice struct {
	lasted    time.Duration
	inTime    int // answered in that time; those under way at its end come to be answered later
	latencies benchHistogram
}

func (s *benchSlice) merge(other *benchSlice) {
	s.lasted = max(s.lasted, other.lasted)
	s.inTime += other.inTime
	s.latencies.merge(&other.latencies)
}

// A benchLoad asks as many callers would: each sends a request as soon as the
// one before is answered. It serves the echo and the service alike.
type benchLoad struct {
	conns []*benchConn
}

func openBenchLoad(ctx context.Context, o broker.Options) (*benchLoad, error) {
	l := new(benchLoad)
	for range benchConnections {
		c, err := openBenchConn(ctx, o)
		if err != nil {
			l.close()
			return nil, err
		}
		l.conns = append(l.conns, c)
	}
	return l, nil
}

func (l *benchLoad) close() {
	for _, c := range l.conns {
		c.conn.CloseDeadline(time.Now().Add(time.Second))
	}
}

// run keeps so many requests in flight for a while, until there are no more,
// one fails or ctx is done, and returns when all are answered.
func (l *benchLoad) run(ctx context.Context, w benchWork, inFlight int, lasting time.Duration) (*benchSlice, error) {
	begin := time.Now()
	conns := l.conns[:min(len(l.conns), inFlight)]
	slices := make([]*benchSlice, len(conns))
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
	whole := new(benchSlice)
	for _, s := range slices {
		whole.merge(s)
	}
	return whole, ctx.Err()
}

// A benchConn is one connection of a load. One goroutine sends over it and
// receives: with another between them, each request would have to wait for the
// scheduler once more.
type benchConn struct {
	conn     *amqp.Connection
	channel  *amqp.Channel
	answers  <-chan amqp.Delivery
	returned <-chan amqp.Return
	name     string // in front of message ids
	number   uint64 // of the last request
	flights  []benchFlight
}

// A benchFlight is a request under way, by its place among them.
type benchFlight struct {
	number  uint64 // with the place in its low bits; 0: none
	sent    time.Time
	request benchRequest
}

// benchPlaceBits is how many bits of a request's number say its place.
const benchPlaceBits = 16

func openBenchConn(ctx context.Context, o broker.Options) (_ *benchConn, err error) {
	conn, err := broker.Dial(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", cluster.ErrUnreachable, err)
	}
	defer func() {
		if err != nil {
			conn.CloseDeadline(time.Now().Add(time.Second))
		}
	}()
	c := &benchConn{conn: conn, name: rand.Text() + "-"}
	if c.channel, err = conn.Channel(); err != nil {
		return nil, fmt.Errorf("opening a channel: %w", err)
	}
	c.returned = c.channel.NotifyReturn(make(chan amqp.Return, 1))
	if c.answers, err = c.channel.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil); err != nil {
		return nil, fmt.Errorf("consuming answers: %w", err)
	}
	return c, nil
}

var errBenchLost = errors.New("the connection to RabbitMQ was lost")

func (c *benchConn) run(ctx context.Context, w benchWork, inFlight int, begin time.Time, lasting time.Duration) (*benchSlice, error) {
	slice := &benchSlice{lasted: lasting}
	end := begin.Add(lasting)
	look := time.NewTicker(benchAnswerTimeout / 6)
	defer look.Stop()
	c.flights = make([]benchFlight, inFlight)
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
		case d, ok := <-c.answers:
			if !ok {
				return nil, errBenchLost
			}
			now := time.Now()
			place := c.landed(d.CorrelationId)
			if place < 0 {
				continue // of an earlier run, which did not wait for it
			}
			flight := c.flights[place]
			c.flights[place].number = 0
			underWay--
			slice.latencies.add(now.Sub(flight.sent))
			if err := flight.finish(w, d.Body); err != nil && failure == nil {
				failure = err
			}
			if now.Before(end) {
				slice.inTime++
				send(place)
			}
		case r, ok := <-c.returned:
			if !ok {
				return nil, errBenchLost
			}
			return nil, fmt.Errorf("%s: %w", r.RoutingKey, client.ErrNoService)
		case now := <-look.C:
			for _, f := range c.flights {
				if f.number != 0 && now.Sub(f.sent) > benchAnswerTimeout {
					return nil, fmt.Errorf("%s was not answered within %v", f.request.operation, benchAnswerTimeout)
				}
			}
		}
	}
	return slice, failure
}

func (c *benchConn) send(w benchWork, place int, r benchRequest) error {
	c.number++
	number := c.number<<benchPlaceBits | uint64(place)
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
	exchange, key := w.way(r, &m)
	c.flights[place] = benchFlight{number: number, sent: time.Now(), request: r}
	if err := c.channel.Publish(exchange, key, true, false, m); err != nil {
		return fmt.Errorf("sending a request: %w", err)
	}
	return nil
}

// landed returns the place of the request with this correlation id, -1 if none
// is under way.
func (c *benchConn) landed(id string) int {
	number, err := strconv.ParseUint(id, 36, 64)
	place := int(number & (1<<benchPlaceBits - 1))
	if err != nil || place >= len(c.flights) || c.flights[place].number != number {
		return -1
	}
	return place
}

// finish looks at the answer to a request.
func (f benchFlight) finish(w benchWork, answer []byte) error {
	if !bytes.HasPrefix(answer, []byte("\x81\xa6result")) {
		return fmt.Errorf("a request failed: %s: %s", strings.TrimPrefix(f.request.operation, "rpc.user."), errorCode(answer))
	}
	if w.answered == nil {
		return nil
	}
	return w.answered(f.request, answer)
}

// errorCode returns the error that the service has answered.
func errorCode(answer []byte) string {
	msg, err := msgpack.Decode(answer, msgpack.Limits{Bytes: math.MaxInt, Depth: 100, Values: math.MaxInt})
	if tree, ok := msg.Tree.(map[string]any); ok && err == nil {
		if code, ok := tree["error"].(string); ok {
			return code
		}
	}
	return "the answer is not one of the identity service's"
}
