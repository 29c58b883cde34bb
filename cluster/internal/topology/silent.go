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

	"github.com/glotpod/ident/cluster/internal/publish"
)

const (
	// probeAllFor is how long queues may take to confirm a probe that share a channel.
	probeAllFor = time.Second

	// probeEachFor is how long a queue may take to confirm a probe then, over a channel of its own.
	probeEachFor = 5 * time.Second
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

// FindSilent sends a probe to each of the queues, and returns those that do not confirm it within six
// seconds, with a reason each. It closes the connection. The error is ErrBlocked if the broker takes nothing.
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
	silent := p.probe(ctx, &running, queues, probeAllFor)
	// A queue without a leader keeps the broker from handling what follows on the channel.
	var probing sync.WaitGroup
	var mu sync.Mutex // guards each
	each := make(SilentError)
	for queue := range silent {
		probing.Go(func() {
			one := p.probe(ctx, &running, []string{queue}, probeEachFor)
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(each, one)
		})
	}
	probing.Wait()
	return each, context.Cause(ctx)
}

// probe sends probes over one channel, and returns the queues that do not confirm them in time.
func (p *Prober) probe(ctx context.Context, running *sync.WaitGroup, queues []string, timeout time.Duration) SilentError {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, publish.ErrUnconfirmed)
	defer cancel()
	publisher := publish.New(publish.Options{Open: p.Open})
	running.Go(func() { publisher.Run(ctx) }) // if the broker does not respond, until the connection is closed
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
				continue // the time is over, or the connection is lost
			}
			if delete(silent, o.queue); o.err != nil {
				silent[o.queue] = o.err
			}
		case <-ctx.Done():
			return silent
		}
	}
	return silent
}
