package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// ErrUnreachable says that RabbitMQ or PostgreSQL could not be reached, or was
// lost, for longer than the instance is to put up with.
var ErrUnreachable = errors.New("out of reach")

const (
	firstPause = 250 * time.Millisecond
	longPause  = 5 * time.Second

	// insistFor is how long an instance that insists goes on trying.
	insistFor = 5 * time.Minute
)

// Patience says what to do when RabbitMQ or PostgreSQL is out of reach: give up
// at the first failure or, insisting, try again for up to five minutes, with
// exponentially growing pauses. The zero Patience gives up.
type Patience struct {
	Insist bool

	since time.Time // of the first failure in a row
	pause time.Duration
}

// Succeeded says that all is well: the next failure is a first one.
func (p *Patience) Succeeded() { p.since, p.pause = time.Time{}, 0 }

// Failed waits before the next try. Where there is to be none, it returns cause
// as an ErrUnreachable, and where ctx is done, ctx's error.
func (p *Patience) Failed(ctx context.Context, cause error) error {
	if p.since.IsZero() {
		p.since, p.pause = time.Now(), firstPause
	}
	// Between half the pause and all of it, lest instances come in step.
	pause := p.pause/2 + rand.N(p.pause/2)
	if !p.Insist || time.Since(p.since)+pause > insistFor {
		return fmt.Errorf("%w: %w", ErrUnreachable, cause)
	}
	p.pause = min(2*p.pause, longPause)
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Retry calls try until it succeeds, patience ends, or ctx is done. Before each
// new try it tells report of the error.
func (p *Patience) Retry(ctx context.Context, report func(error), try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil {
			p.Succeeded()
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if p.Insist {
			report(err)
		}
		if err := p.Failed(ctx, err); err != nil {
			return err
		}
	}
}
