package cluster

import (
	"context"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A Store is what an instance needs of the database. Each part has one kind of user.
type Store interface {
	actor.Store         // the router and the actors
	LeaseStore          // the coordinator
	NotificationStore   // the notifier
	topology.RebindLock // the repairer of the exchanges and queues
	HealthStore         // the instance
}

// A LeaseStore has the epoch table: a row per partition, with its lease.
type LeaseStore interface {
	// Claim makes claims, and returns for each an ownership.Claimed or an
	// ownership.ClaimRefused. After an error it is unknown which claims were made.
	Claim(ctx context.Context, claims []ownership.Claim) ([]ownership.Event, error)

	// Release ends leases. Leases that are lost already stay so.
	Release(ctx context.Context, leases []partition.Lease) error

	// HandOver ends leases in favour of other members, and returns for each whether it
	// did.
	HandOver(ctx context.Context, all []ownership.HandOver) ([]ownership.HandedOver, error)

	// Survey returns the rows of the epoch table.
	Survey(ctx context.Context) ([]ownership.Row, error)
}

// A NotificationStore has the outbox.
type NotificationStore interface {
	notify.Outbox

	// SetNotificationSink has each notification passed to sink after its commit, in the
	// order of each user's changes. If sink is nil, notifications stay in the outbox.
	SetNotificationSink(sink func(actor.PendingNotification))
}

// A HealthStore tells how the database is, and ends its use.
type HealthStore interface {
	// Ping returns an error unless the database can be read and written.
	Ping(ctx context.Context) error

	// WatchForeignWrites calls trust until ctx is done: with false while another program
	// may be writing to the tables, so that users in memory must not be used.
	WatchForeignWrites(ctx context.Context, trust func(bool))

	// RoundTrips returns how many round trips to the database were made.
	RoundTrips() int64

	// Abort breaks off all operations. The store cannot be used afterwards.
	Abort()
}
