package generation

import (
	"context"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/coordinate"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/partition"
)

// A Store is what an instance needs of the database. Each part has one kind of user.
type Store interface {
	actor.Store           // the router and the actors
	coordinate.LeaseStore // the coordinator
	NotificationStore     // the notifier
	ReadLeaseStore        // the router and the actors, for users in memory
	topology.RebindLock   // the repairer of the exchanges and queues
	HealthStore           // the instance
}

// A ReadLeaseStore says which leases stand.
type ReadLeaseStore interface {
	// EndedLeases returns those of the leases, all of one member, that have ended. It does not
	// log errors.
	EndedLeases(ctx context.Context, leases []partition.Lease) ([]partition.Lease, error)
}

// A NotificationStore has the notifications of committed changes.
type NotificationStore interface {
	notify.Outbox

	// SetNotificationSink has each notification passed to sink after its commit. If sink
	// is nil, notifications stay in the log.
	SetNotificationSink(sink actor.NotificationSink)

	// SetNotificationCheck has each write refused whose notification does not fit into
	// a message. fits may block shortly. If it is nil, there is no limit.
	SetNotificationCheck(fits func(bytes int) bool)
}

// A HealthStore tells how the database is, and ends its use.
type HealthStore interface {
	// Ping returns an error unless the database can be read and written, also over a new
	// connection. If only new connections cannot be made, the error is a
	// wait.ErrNoNewConnection.
	Ping(ctx context.Context) error

	// WatchForeignWrites calls trust until ctx is done: with false while another program
	// may be writing to the tables, so that users in memory must not be used.
	WatchForeignWrites(ctx context.Context, trust func(bool))

	// OnHistoryChange has changed called when a failover or a restored backup has ended all leases.
	OnHistoryChange(changed func())
	// Problems describes what is wrong with the database although it can be used.
	Problems() []string

	// RoundTrips returns how many round trips to the database were made.
	RoundTrips() int64

	// Abort breaks off all operations. The store cannot be used afterwards.
	Abort()
}
