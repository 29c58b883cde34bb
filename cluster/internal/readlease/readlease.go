// Package readlease renews the read leases of the partitions that an instance serves, while
// users are read from memory.
package readlease

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// askTimeout bounds how long the database may take to reply. A reply after partition.ReadFor
	// is of no use. But a question that is given up costs a connection, and a database that is
	// slow needs no new ones.
	askTimeout = 2 * time.Second

	// askEvery is the shortest time from one reply to the next question. It bounds what reads
	// cost the database that find no read lease: because it is slow, or the lease has ended.
	askEvery = 100 * time.Millisecond
)

// A Renewer asks the database whether the leases of an instance stand: all in one statement,
// and only when a read wants that.
type Renewer struct {
	ended   func(context.Context, []partition.Lease) ([]partition.Lease, error)
	served  func() map[partition.Lease]*partition.ReadLease
	onEnded func(partition.Lease)
	wanted  wait.Signal
}

// NewRenewer returns a Renewer of the read leases that served returns. ended asks the database
// which leases have ended; onEnded is called for each of these.
func NewRenewer(
	ended func(context.Context, []partition.Lease) ([]partition.Lease, error),
	served func() map[partition.Lease]*partition.ReadLease,
	onEnded func(partition.Lease),
) *Renewer {
	return &Renewer{ended: ended, served: served, onEnded: onEnded, wanted: wait.NewSignal()}
}

// Renew has the read leases renewed soon. It does not block.
func (r *Renewer) Renew() { r.wanted.Notify() }

// Run renews the read leases until ctx is done.
func (r *Renewer) Run(ctx context.Context) {
	for {
		select {
		case <-r.wanted:
			r.ask(ctx)
		case <-ctx.Done():
			return
		}
		if wait.For(ctx, askEvery) != nil {
			return
		}
	}
}

// ask asks the database. After an error, reads go to the database, which says what is wrong.
func (r *Renewer) ask(ctx context.Context) {
	served := r.served()
	if len(served) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	asked := time.Now()
	ended, err := r.ended(ctx, slices.Collect(maps.Keys(served)))
	if err != nil {
		return
	}
	for _, lease := range ended {
		delete(served, lease)
		r.onEnded(lease)
	}
	for _, reads := range served {
		reads.Extend(asked)
	}
}
