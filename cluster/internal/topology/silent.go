package topology

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/cluster/internal/publish"
)

const (
	// probeAllFor is how long queues may take to confirm a probe that share a channel.
	probeAllFor = time.Second

	// probeEachFor is how long a queue may take to confirm a probe then, over a channel of its own.
	probeEachFor = 5 * time.Second

	// probedAtOnce is how many queues are probed at the same time then.
	probedAtOnce = 512
)

// ErrBlocked means that the broker takes no messages: it has a memory or disk alarm.
var ErrBlocked = errors.New("RabbitMQ takes no messages: it has a memory or disk alarm")

// A SilentError means that queues do not take messages in. It has why, by their names.
type SilentError map[string]error

func (e SilentError) Error() string {
	var all []string
	for _, queue := range slices.Sorted(maps.Keys(e)) {
		all = append(all, fmt.Sprintf("%s: %v", queue, e[queue]))
	}
	return "queues take nothing in: " + strings.Join(all, ", ")
}

// A Prober is a connection that is used for probes alone.
type Prober struct {
	Open    func() (publish.Channel, error)
	Blocked <-chan amqp.Blocking // has what the broker says of an alarm
	Close   func()               // ends what waits for the broker
}

// errAllSilent means that the broker or the network is at fault, not one queue.
var errAllSilent = errors.New("RabbitMQ does not confirm a message to any queue")

// FindSilent sends a probe to each of the queues, and returns those that do not confirm it within six
// seconds, with a reason each. It closes the connection. The error is ErrBlocked if the broker takes
// nothing. It is another one if that was not found out, because the connection is lost or has no free
// channel, or because no queue at all confirms.
func (p *Prober) FindSilent(ctx context.Context, queues []string) (SilentError, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer p.Close()
	defer cancel(nil)
	running.Go(func() {
		select {
		case b := <-p.Blocked:
			if b.Active {
				cancel(ErrBlocked)
			}
		case <-ctx.Done():
		}
	})
	silent, err := p.probe(ctx, &running, queues, probeAllFor)
	if err == nil {
		silent, err = p.probeEach(ctx, &running, silent)
	}
	unconfirmed := 0
	for _, why := range silent {
		if errors.Is(why, publish.ErrUnconfirmed) {
			unconfirmed++
		}
	}
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return nil, cause
	case err != nil:
		return nil, err
	case unconfirmed > 0 && unconfirmed == len(queues):
		return nil, errAllSilent
	}
	return silent, nil
}

// probeEach sends a probe to each of the queues over a channel of its own, and returns those that do not confirm
// it in time: a queue without a leader keeps the broker from handling what follows on the channel.
func (p *Prober) probeEach(ctx context.Context, running *sync.WaitGroup, queues SilentError) (SilentError, error) {
	var mu sync.Mutex // guards silent
	silent := make(SilentError)
	probing, limited := errgroup.WithContext(ctx)
	probing.SetLimit(probedAtOnce)
	for queue := range queues {
		probing.Go(func() error {
			one, err := p.probe(limited, running, []string{queue}, probeEachFor)
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(silent, one)
			return err
		})
	}
	return silent, probing.Wait()
}

// probe sends probes over one channel, and returns the queues that do not confirm them in time. The error is
// that of the connection.
func (p *Prober) probe(ctx context.Context, running *sync.WaitGroup, queues []string, timeout time.Duration) (SilentError, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, publish.ErrUnconfirmed)
	defer cancel()
	publisher := publish.New(publish.Options{Open: p.Open})
	ended := make(chan error, 1)
	running.Go(func() { ended <- publisher.Run(ctx) }) // if the broker does not respond, until the connection is closed
	type outcome struct {
		queue string
		err   error
	}
	outcomes := make(chan outcome, len(queues))
	running.Go(func() {
		for _, queue := range queues {
			publisher.Publish(&publish.Message{Key: queue, Mandatory: true, Publishing: NewProbe(), Settled: func(err error) { outcomes <- outcome{queue, err} }})
		}
	})
	silent := make(SilentError)
	for _, queue := range queues {
		silent[queue] = publish.ErrUnconfirmed
	}
	for range queues {
		select {
		case o := <-outcomes:
			if errors.Is(o.err, publish.ErrLost) {
				select {
				case err := <-ended:
					if err != nil && ctx.Err() == nil {
						return nil, fmt.Errorf("sending probes: %w", err)
					}
				case <-ctx.Done():
				}
				return silent, nil // the time is over
			}
			if delete(silent, o.queue); o.err != nil {
				silent[o.queue] = o.err
			}
		case <-ctx.Done():
			return silent, nil
		}
	}
	return silent, nil
}
