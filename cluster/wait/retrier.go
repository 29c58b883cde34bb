package wait

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrUnreachable means that RabbitMQ or PostgreSQL could not be reached for longer than
// the program accepts.
var ErrUnreachable = errors.New("out of reach")

// ErrNoNewConnection means that PostgreSQL accepts no new connection, while those that are
// open can be used.
var ErrNoNewConnection = errors.New("no new connection is possible")

const (
	// The pauses between attempts to reach RabbitMQ or PostgreSQL.
	firstReconnectPause   = 250 * time.Millisecond
	longestReconnectPause = 5 * time.Second

	// insistFor is how long an instance that insists tries.
	insistFor = 5 * time.Minute
)

// A Retrier decides whether to try again when RabbitMQ or PostgreSQL is out of reach. If
// Insist is false, the first failure is final. Otherwise it allows further attempts for
// five minutes, with growing pauses. The zero Retrier does not insist. A Retrier is not
// safe for concurrent use.
type Retrier struct {
	Insist bool

	since   time.Time // the first of the latest failures in a row; zero: none
	backoff Backoff
}

// Succeeded notes a success: the next failure is the first one in a row.
func (r *Retrier) Succeeded() { r.since = time.Time{} }

// Failed waits for the pause before the next attempt. If there is to be none, it returns
// cause, wrapped in an ErrUnreachable. If ctx is done, it returns ctx's error.
func (r *Retrier) Failed(ctx context.Context, cause error) error {
	if r.since.IsZero() {
		r.since, r.backoff = time.Now(), Backoff{First: firstReconnectPause, Longest: longestReconnectPause}
	}
	pause := r.backoff.Next()
	if !r.Insist || time.Since(r.since)+pause > insistFor {
		return fmt.Errorf("%w: %w", ErrUnreachable, cause)
	}
	return For(ctx, pause)
}

// Retry calls attempt until it succeeds, no further attempt is allowed, or ctx is done.
// It passes the error of each attempt but the last one to report.
func (r *Retrier) Retry(ctx context.Context, report func(error), attempt func(context.Context) error) error {
	for {
		err := attempt(ctx)
		if err == nil {
			r.Succeeded()
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if r.Insist {
			report(err)
		}
		if err := r.Failed(ctx, err); err != nil {
			return err
		}
	}
}
