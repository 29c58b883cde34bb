package consume

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/glotpod/ident/cluster/wait"
)

const (
	// The pauses between attempts to consume a queue again.
	firstReopenPause   = 100 * time.Millisecond
	longestReopenPause = 5 * time.Second
)

// errNextConsumer is returned when one consumer has ended in favour of the next one.
var errNextConsumer = errors.New("the consumer was cancelled")

var errNotConsumedYet = errors.New("the broker has not answered yet: the queue may be without a leader")

// KeeperOptions configure a [Keeper].
type KeeperOptions struct {
	// Open starts a consumer of the queue.
	Open func() (*Consumer, error)

	// Receive takes the requests of a consumer until the consumer has ended. It returns
	// true if it has cancelled the consumer itself, in favour of the next one.
	Receive func(*Consumer) (again bool)

	// OnLost is called with the reason when the queue is not consumed, and again after
	// each further attempt that fails.
	OnLost func(error)

	// OnFound is called when the queue is consumed after attempts that have failed, or
	// after the broker has ended a consumer.
	OnFound func()
}

// A Keeper keeps a queue consumed. When the broker ends the consumer, because the queue was
// deleted, its node has stopped or the channel was closed, the Keeper starts another. The
// requests of the consumer that has ended are completed all the same: their replies are
// sent, and those that the broker delivers again are replays.
type Keeper struct {
	o       KeeperOptions
	ctx     context.Context // done when Run is to end
	stop    context.CancelFunc
	ended   chan struct{}  // closed when Run has returned
	retired sync.WaitGroup // consumers that the broker has ended, until their requests are complete

	mu       sync.Mutex // guards the following fields
	started  bool
	current  *Consumer // nil: none
	outdated bool      // Replace was called since it was opened
	err      error     // why the queue is not consumed; nil: it is
}

// NewKeeper returns a Keeper that does nothing before Start is called.
func NewKeeper(o KeeperOptions) *Keeper {
	k := &Keeper{o: o, ended: make(chan struct{}), err: errNotConsumedYet}
	k.ctx, k.stop = context.WithCancel(context.Background())
	return k
}

// Start begins to consume the queue, in goroutines that running counts. They end when ctx
// is done and the connection is closed, or after Drain. Start is called once.
func (k *Keeper) Start(ctx context.Context, running *sync.WaitGroup) {
	k.mu.Lock()
	k.started = true
	k.mu.Unlock()
	running.Go(func() {
		defer close(k.ended)
		defer context.AfterFunc(ctx, k.stop)()
		k.run()
	})
	running.Go(func() {
		<-k.ended
		k.retired.Wait()
	})
}

// Err returns why the queue is not consumed, or nil if it is.
func (k *Keeper) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// Stop stops receiving requests. It does nothing before Start.
func (k *Keeper) Stop() {
	k.mu.Lock()
	started, consumer := k.started, k.current
	k.stop()
	k.mu.Unlock()
	if started && consumer != nil {
		consumer.Cancel() // on an error the channel is lost: the requests are delivered again
		<-k.ended
	}
}

// Drain stops receiving requests, and returns when those that were received are complete
// and acknowledged, or the connection is closed. It does nothing before Start.
func (k *Keeper) Drain() {
	k.Stop()
	k.retired.Wait()
}

// Replace has another consumer opened. The present one is cancelled, and the next one starts
// when all deliveries of this one are received.
func (k *Keeper) Replace() {
	k.mu.Lock()
	consumer := k.current
	if k.outdated {
		consumer = nil // it was cancelled before
	}
	k.outdated = true
	k.mu.Unlock()
	if consumer != nil {
		consumer.Cancel() // on an error the channel is lost, which has the same effect
	}
}

// run receives the requests of one consumer after another.
func (k *Keeper) run() {
	pause := wait.Backoff{First: firstReopenPause, Longest: longestReopenPause}
	for k.ctx.Err() == nil {
		begun := time.Now()
		err := k.consume()
		if k.ctx.Err() != nil {
			return
		}
		if errors.Is(err, errNextConsumer) {
			continue
		}
		k.setErr(err)
		k.o.OnLost(err)
		if time.Since(begun) > longestReopenPause {
			pause.Reset()
		}
		pause.Wait(k.ctx) // an error means that Drain was called, or the session has ended
	}
}

// consume starts a consumer, and receives its requests until it has ended. It returns why.
func (k *Keeper) consume() error {
	k.setOutdated(false)
	consumer, err := k.o.Open()
	if err != nil {
		return err
	}
	before, ok := k.begin(consumer)
	if !ok {
		consumer.Close() // the broker delivers again what it has sent
		return nil
	}
	if before != nil && !errors.Is(before, errNotConsumedYet) {
		k.o.OnFound()
	}
	if k.o.Receive(consumer) {
		completed := make(chan struct{})
		k.retired.Go(func() {
			defer close(completed)
			consumer.Requests.Wait()
			consumer.Close() // before the next one starts, so that what was not accepted comes first
		})
		select {
		case <-completed:
		case <-k.ctx.Done(): // there is no next one
		}
		k.retire(consumer)
		return errNextConsumer
	}
	if k.isOutdated() {
		err = errNextConsumer
	} else if k.ctx.Err() == nil {
		err = consumer.EndCause()
	}
	k.retire(consumer)
	return err
}

func (k *Keeper) isOutdated() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.outdated
}

func (k *Keeper) setOutdated(outdated bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.outdated = outdated
}

// begin notes a consumer that has started, and returns why there was none. It returns
// false if there is to be none.
func (k *Keeper) begin(consumer *Consumer) (before error, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ctx.Err() != nil {
		return nil, false
	}
	before = k.err
	k.current, k.err = consumer, nil
	if k.outdated {
		k.retired.Go(func() { consumer.Cancel() }) // an error means that the channel is lost
	}
	return before, true
}

// retire closes the channel of a consumer that has ended when its requests are complete.
func (k *Keeper) retire(consumer *Consumer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current = nil
	k.retired.Go(func() {
		consumer.Requests.Wait()
		consumer.Close()
	})
}

// setErr notes why the queue is not consumed.
func (k *Keeper) setErr(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}
