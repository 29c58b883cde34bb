package repartition

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A declarer declares queues, and finds out whether there are queues. It does not wait long for a queue
// of which the broker does not respond. It is safe for concurrent use.
type declarer struct {
	conn    Connection
	queues  int            // partition queues of both generations
	running sync.WaitGroup // calls that wait for the broker, until conn is closed
}

// close closes the connection and waits for the calls.
func (b *declarer) close() {
	b.conn.CloseDeadline(time.Now().Add(closeTimeout))
	b.running.Wait()
}

// errHangs means that the broker does not respond about one queue.
var errHangs = errors.New("the broker does not respond: the queue may have no leader")

// within calls f, which waits for the broker. If that takes too long, f goes on until the
// connection is closed.
func (b *declarer) within(ctx context.Context, limit time.Duration, f func() error) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	done := make(chan error, 1)
	b.running.Go(func() { done <- f() })
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return errHangs
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// isMissing reports whether the broker has no such queue. It returns false if the queue's node is down,
// which the broker does not find either. A queue of that name is made for a moment if there is none. It has an
// argument that no other has: so the broker refuses to make it if the node is back.
func (b *declarer) isMissing(ctx context.Context, queue string, durable, exclusive bool, args amqp.Table) (missing bool, err error) {
	args = maps.Clone(args)
	if args == nil {
		args = make(amqp.Table)
	}
	args["x-expires"] = time.Minute.Milliseconds()
	err = b.within(ctx, callFor, func() error {
		channel, err := b.conn.OpenDeclaring()
		if err != nil {
			return err
		}
		defer channel.Close()
		if _, err = channel.QueueDeclare(queue, durable, exclusive, exclusive, false, args); err != nil {
			return err
		}
		_, err = channel.QueueDelete(queue, false, false, false)
		return err
	})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, errHangs) || broker.IsCode(err, amqp.NotFound) || broker.IsCode(err, amqp.ResourceLocked):
		return false, nil
	case broker.IsCode(err, amqp.PreconditionFailed):
		if found := b.look(ctx, queue); broker.IsCode(found, amqp.NotFound) {
			return false, topology.QueueLimitError(b.queues, err)
		}
		return false, nil
	}
	return false, fmt.Errorf("looking for the queue %s: %w", queue, err)
}

// look returns the broker's error if it does not find a queue.
func (b *declarer) look(ctx context.Context, queue string) error {
	return b.within(ctx, callFor, func() error {
		channel, err := b.conn.OpenDeclaring()
		if err != nil {
			return err
		}
		defer channel.Close()
		_, err = channel.QueueDeclarePassive(queue, false, true, true, false, nil)
		return err
	})
}

// isGone reports whether the broker has no exclusive queue of a member: it has dropped the connection.
// While the node is down to which the member was connected, that is not known.
func (b *declarer) isGone(ctx context.Context, member ownership.Member) (bool, error) {
	queue := membership.QueueOf(member)
	err := b.look(ctx, queue)
	switch {
	case broker.IsCode(err, amqp.NotFound):
		return b.isMissing(ctx, queue, false, true, nil)
	case err == nil || broker.IsCode(err, amqp.ResourceLocked) || errors.Is(err, errHangs):
		return false, nil
	}
	return false, fmt.Errorf("looking for the queue of %s: %w", member, err)
}

// declare makes a queue of a generation.
func (b *declarer) declare(ctx context.Context, queue string, g partition.Generation) error {
	return b.within(ctx, callFor, func() error {
		channel, err := b.conn.OpenDeclaring()
		if err != nil {
			return err
		}
		defer channel.Close()
		_, err = channel.QueueDeclare(queue, true, false, false, false, topology.PartitionArguments(g.QueueType))
		return err
	})
}
