package repartition

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/generation"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// renewEvery is how often an attempt is renewed. Another instance waits 2 s for that.
	renewEvery = 400 * time.Millisecond

	// giveUpAfter is how long the old generation is not served until a repartition is given up of which
	// a step fails.
	giveUpAfter = 10 * time.Second
)

// Options say how an instance carries repartitions on.
type Options struct {
	Name    string
	Store   generation.Store
	Records Records

	// NextMember returns another incarnation of the instance, as which it holds leases.
	NextMember func() ownership.Member

	// Dial opens a connection to the broker.
	Dial func(ctx context.Context, purpose string) (Connection, error)

	// DropsWithin is how long the broker may keep a connection of an instance that is frozen.
	DropsWithin time.Duration

	// NewNotifier returns a notifier for the old generation.
	NewNotifier func(ownership.Member, generation.Store, partition.Generation) *notify.Notifier

	// Copy returns the copy of a request for the generation to, and the queue to which it goes. ok is
	// false if the message is not moved.
	Copy func(d *amqp.Delivery, received time.Time, to partition.Generation) (queue string, copied amqp.Publishing, ok bool)

	// Refusal returns the error reply to a request that cannot be moved, and the queue that it goes to.
	// ok is false if it has no reply queue.
	Refusal func(d *amqp.Delivery) (queue string, reply amqp.Publishing, ok bool)

	// Bytes bounds the bodies that the mover has in memory. A larger one is moved alone.
	Bytes int64

	Log *zap.Logger
}

// An attempt carries a repartition on.
type attempt struct {
	o *Options
	r *partition.Repartition
	n int64 // the number of the attempt

	phase partition.Phase // in which the attempt is
	begun time.Time

	moved   atomic.Int64 // requests that were moved and are not recorded yet
	cleared atomic.Int64
	note    atomic.Pointer[string] // what is in the way
}

// carryOn makes an attempt to carry a repartition on, unless another instance does so.
func carryOn(ctx context.Context, o *Options, r *partition.Repartition) error {
	number, ok, err := o.Records.Start(ctx, r.Number, o.Name)
	if err != nil || !ok {
		return err
	}
	a := &attempt{o: o, r: r, n: number, phase: r.Phase, begun: time.Now()}
	a.note.Store(&r.Note)
	o.Log.Info("carrying a repartition on", zap.String("phase", string(r.Phase)), zap.Stringer("from", r.From), zap.Stringer("to", r.To), zap.Int64("attempt", number))
	limited, cancel := context.WithCancelCause(ctx)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		a.renew(limited, cancel)
	}()
	err = a.run(limited)
	if cause := context.Cause(limited); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	<-renewed
	a.end(context.WithoutCancel(ctx), err)
	return err
}

func (a *attempt) run(ctx context.Context) error {
	b := &mover{attempt: a}
	defer b.close()
	switch a.phase {
	case partition.Stopping:
		if err := b.stop(ctx); err != nil {
			return fmt.Errorf("taking over the old generation: %w", err)
		}
		a.phase = partition.Moving
		fallthrough
	case partition.Moving:
		if err := b.move(ctx); err != nil {
			return fmt.Errorf("moving the requests to the new queues: %w", err)
		}
		a.o.Log.Info("generation begun", zap.Stringer("generation", a.r.To), zap.Int("first", a.r.To.First))
	case partition.Clearing:
		if err := b.clear(ctx); err != nil {
			return fmt.Errorf("deleting the old queues: %w", err)
		}
		a.o.Log.Info("repartition done", zap.Stringer("from", a.r.From), zap.Stringer("to", a.r.To))
	}
	return nil
}

// record returns what is to be recorded of the attempt.
func (a *attempt) record() partition.Attempt {
	r := partition.Attempt{Number: a.r.Number, Attempt: a.n, Moved: a.moved.Swap(0), Cleared: int(a.cleared.Load())}
	if note := a.note.Load(); note != nil {
		r.Note = *note
	}
	return r
}

func (a *attempt) setNote(format string, args ...any) {
	note := fmt.Sprintf(format, args...)
	a.note.Store(&note)
}

// renew renews the attempt until ctx is done. If another instance has begun one, or may have, it
// cancels this one.
func (a *attempt) renew(ctx context.Context, cancel context.CancelCauseFunc) {
	for wait.For(ctx, renewEvery) == nil {
		limited, stop := context.WithTimeout(ctx, 3*renewEvery)
		err := a.o.Records.Renew(limited, a.record())
		stop()
		if err != nil && ctx.Err() == nil {
			cancel(err)
			return
		}
	}
}

// end lets another attempt begin. If the phase stopping fails for too long, it gives the repartition up.
func (a *attempt) end(ctx context.Context, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*renewEvery)
	defer cancel()
	record := a.record()
	var behind *partition.NotNotifiedError
	var setup *topology.SetupError
	var silent topology.SilentError
	switch {
	case err == nil || errors.Is(err, partition.ErrSuperseded):
	case a.phase == partition.Stopping && (a.r.Age+time.Since(a.begun) > giveUpAfter || errors.As(err, &behind) || errors.As(err, &setup) || errors.As(err, &silent) || errors.Is(err, topology.ErrBlocked)):
		a.o.Log.Error("repartition given up; the old generation goes on", zap.Error(err))
		a.logEnd(a.o.Records.GiveUp(ctx, a.r.Number, err.Error()))
		return
	case strings.HasPrefix(record.Note, notAvailable): // the next attempt must know of these queues
	default:
		record.Note = err.Error()
	}
	a.logEnd(a.o.Records.Yield(ctx, record))
}

func (a *attempt) logEnd(err error) {
	if err != nil && !errors.Is(err, partition.ErrSuperseded) {
		a.o.Log.Warn("attempt not ended; another one begins later", zap.Error(err))
	}
}
