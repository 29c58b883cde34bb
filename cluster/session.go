package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
)

const consumerTag = "ident"

// A session is what an instance does over one connection.
type session struct {
	o    Options
	conn *amqp.Connection
	lost chan *amqp.Error // the connection's end

	requests   *amqp.Channel // requests, answers and acknowledgements
	deliveries <-chan amqp.Delivery
	replies    *broker.Replies
	notifier   *notifier
	partition  *actor.Partition

	ctx      context.Context // done when the connection is lost, or the session is over
	cancel   context.CancelFunc
	inFlight sync.WaitGroup // requests that were taken and are neither answered nor given up
	budget   budget         // of the bytes of their bodies
}

// openSession connects and takes the first requests, after the notifications
// of former sessions were sent. ctx bounds the opening alone.
func openSession(ctx context.Context, o Options) (_ *session, err error) {
	dialing, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := broker.Dial(dialing, o.Broker)
	if err != nil {
		return nil, err
	}
	s := &session{
		o:       o,
		conn:    conn,
		lost:    conn.NotifyClose(make(chan *amqp.Error, 1)),
		replies: broker.NewReplies(conn, o.Broker),
		budget:  newBudget(o.InFlight),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	// A broker that takes nothing in blocks who sends, whatever ctx says.
	defer context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })()
	defer func() {
		if err != nil {
			s.cancel()
			conn.CloseDeadline(time.Now().Add(time.Second))
		}
	}()

	if s.notifier, err = openNotifier(conn, o.Store, o.Log); err != nil {
		return nil, err
	}
	if err := s.notifier.catchUp(ctx); err != nil {
		return nil, err
	}
	if err := s.consume(ctx); err != nil {
		return nil, err
	}
	s.partition = actor.NewPartition(o.Store, o.Mailbox)
	return s, nil
}

// consume declares what requests come by, and consumes the shared queue.
func (s *session) consume(ctx context.Context) (err error) {
	if s.requests, err = s.conn.Channel(); err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	if err := s.requests.Qos(s.o.Prefetch, 0, false); err != nil {
		return fmt.Errorf("setting the prefetch count: %w", err)
	}
	if err := declareShared(s.requests); err != nil {
		return err
	}
	if err := declareDirect(ctx, s.conn, s.o); err != nil {
		return err
	}
	if s.deliveries, err = s.requests.Consume(requestQueue, consumerTag, false, false, false, false, nil); err != nil {
		return fmt.Errorf("consuming the queue %s: %w", requestQueue, err)
	}
	return nil
}

var errConsumerCancelled = errors.New("the broker cancelled the consumer: the queue was deleted")

// run serves until ctx is done, then finishes what was taken; or until the
// connection is lost, which is the error.
func (s *session) run(ctx context.Context) error {
	var sending sync.WaitGroup
	sending.Go(func() { s.notifier.run(s.ctx) })
	s.o.Store.SendTo(s.notifier.send)

	err := s.takeRequests(ctx)
	if err == nil && !errors.Is(context.Cause(ctx), ErrUnreachable) {
		s.drain()
	} else {
		s.conn.CloseDeadline(time.Now().Add(time.Second))
	}
	// From here on nobody waits for anything: what is still under way was not
	// acknowledged, and comes again.
	s.cancel()
	s.partition.Stop()
	s.inFlight.Wait()
	s.o.Store.SendTo(nil)
	sending.Wait()
	s.conn.CloseDeadline(time.Now().Add(time.Second))
	return err
}

// takeRequests routes requests until ctx is done (nil) or the session is lost.
func (s *session) takeRequests(ctx context.Context) error {
	channelClosed := s.requests.NotifyClose(make(chan *amqp.Error, 1))
	for {
		deliveries := s.deliveries
		if s.budget.spent() {
			deliveries = nil // none, until there is room
		}
		select {
		case <-s.budget.room:
		case d, ok := <-deliveries:
			if ok {
				s.route(d)
				continue
			}
			// The channel is gone, or the consumer alone.
			select {
			case cause := <-s.lost:
				return lostError(cause)
			case cause := <-channelClosed:
				return lostError(cause)
			case <-time.After(time.Second):
				return errConsumerCancelled
			}
		case cause := <-s.lost:
			return lostError(cause)
		case cause := <-s.notifier.closed:
			return lostError(cause)
		case <-ctx.Done():
			return nil
		}
	}
}

func lostError(cause *amqp.Error) error {
	if cause == nil {
		return errors.New("the connection was closed")
	}
	return fmt.Errorf("the connection was lost: %w", cause)
}

// drain takes no more requests and waits until those that were taken are
// answered, and their notifications sent.
func (s *session) drain() {
	s.o.Log.Info("draining")
	deadline := time.After(s.o.Grace)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		if err := s.requests.Cancel(consumerTag, false); err != nil {
			return // lost: what was taken comes again
		}
		for d := range s.deliveries { // what the broker sent before the cancel
			s.budget.await(s.ctx)
			s.route(d)
		}
		s.inFlight.Wait()
		s.notifier.flush(s.ctx)
	}()
	select {
	case <-finished:
		return
	case <-deadline:
		s.o.Log.Warn("not all requests were answered in time; the broker gives them to others", zap.Duration("grace", s.o.Grace))
	case cause := <-s.lost:
		s.o.Log.Warn("connection lost while draining", zap.Error(lostError(cause)))
	}
	s.cancel()
	s.o.Store.Abort()
	s.conn.CloseDeadline(time.Now().Add(time.Second)) // ends the consumer, too
	<-finished
}
