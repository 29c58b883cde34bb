package cluster

import (
	"context"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/coordinate"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/topology"
)

// A Store is what an instance needs of the database. Each part has one kind of user.
type Store interface {
	actor.Store           // the router and the actors
	coordinate.LeaseStore // the coordinator
	NotificationStore     // the notifier
	topology.RebindLock   // the repairer of the exchanges and queues
	HealthStore           // the instance
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
