package cluster

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster/broker"
)

// A Store is what an instance needs of the database.
type Store interface {
	actor.Store

	// Ping says whether the database can be read and written.
	Ping(ctx context.Context) error

	// Abort breaks off all that is under way. The store is good for nothing
	// afterwards.
	Abort()

	// SendTo has each notification handed to sink after its commit, in each
	// user's order; with nil, they stay stored.
	SendTo(sink func(actor.Notification))

	// Settle waits until every commit that is under way, be it of a process
	// that has ended meanwhile, is done.
	Settle(ctx context.Context) error

	// Undelivered returns stored notifications that were committed at least
	// age ago, by id from afterID on.
	Undelivered(ctx context.Context, afterID int64, age time.Duration, limit int) ([]actor.Notification, error)

	// Delivered says which notifications need not be stored any longer.
	Delivered(ids ...int64)
}

// Options say how an instance serves.
type Options struct {
	Store  Store
	Broker broker.Options

	Prefetch int // requests taken from the broker and not yet answered
	Mailbox  int // writes that wait for one user
	Limits   msgpack.Limits
	InFlight int64 // bytes of the bodies of requests that are being carried out
	Insist   bool
	Grace    time.Duration // how long a drain may take

	Log *zap.Logger
}

const (
	connectTimeout = 8 * time.Second

	// steadyAfter is how long a session has to last for its end to be a first
	// failure, and not one more in a row.
	steadyAfter = 30 * time.Second

	// pingEvery and pingTimeout bound how long the loss of the database goes
	// unnoticed while nobody asks for anything.
	pingEvery   = time.Second
	pingTimeout = 5 * time.Second
)

// An Instance takes requests from RabbitMQ, carries them out, and answers them.
type Instance struct {
	o       Options
	serving atomic.Bool // requests are being taken
	stored  atomic.Bool // the database answered last time
}

// New returns an instance that does nothing before Run.
func New(o Options) *Instance { return &Instance{o: o} }

// Ready returns nil while the instance takes requests and can carry them out,
// or else what keeps it from that.
func (i *Instance) Ready() error {
	switch {
	case !i.serving.Load():
		return errors.New("not connected to RabbitMQ")
	case !i.stored.Load():
		return errors.New("the database is out of reach")
	}
	return nil
}

// Run serves until ctx is done, then answers what was taken, and returns nil.
// It returns an ErrUnreachable where RabbitMQ or the database is out of reach
// for longer than the options allow.
func (i *Instance) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if err := i.watchDatabase(ctx); err != nil {
			stop(err)
		}
	}()
	defer func() { <-watched }()
	defer stop(nil)

	patience := Patience{Insist: i.o.Insist}
	for {
		begun := time.Now()
		err := i.serve(ctx)
		if time.Since(begun) > steadyAfter {
			patience.Succeeded()
		}
		if ctx.Err() != nil {
			if err := context.Cause(ctx); errors.Is(err, ErrUnreachable) {
				return err
			}
			return nil
		}
		i.o.Log.Warn("RabbitMQ out of reach", zap.Error(err), zap.Bool("insist", i.o.Insist))
		if err := patience.Failed(ctx, err); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// serve runs one session.
func (i *Instance) serve(ctx context.Context) error {
	s, err := openSession(ctx, i.o)
	if err != nil {
		return err
	}
	i.serving.Store(true)
	defer context.AfterFunc(ctx, func() { i.serving.Store(false) })()
	i.o.Log.Info("serving")
	err = s.run(ctx)
	i.serving.Store(false)
	return err
}

// watchDatabase looks after the database until ctx is done, or returns an
// ErrUnreachable. An outage ends no session: reads fail, and writes wait.
func (i *Instance) watchDatabase(ctx context.Context) error {
	patience := Patience{Insist: i.o.Insist}
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		err := patience.Retry(ctx, func(err error) {
			i.stored.Store(false)
			i.o.Log.Warn("database out of reach", zap.Error(err))
		}, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, pingTimeout)
			defer cancel()
			return i.o.Store.Ping(ctx)
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			i.stored.Store(false)
			i.o.Store.Abort()
			return err
		}
		i.stored.Store(true)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}
