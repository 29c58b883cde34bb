package outbox

import (
	"maps"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/postgres"
)

// An Outbox hands notifications to their sink and notes which are confirmed. It is safe for
// concurrent use.
type Outbox struct {
	pool    *postgres.Pool
	days    *changelog.Days
	keyring *keyring.Keyring
	log     *zap.Logger
	limits  limits // of each cursor

	mu         sync.Mutex // guards the following fields
	sink       actor.NotificationSink
	partitions map[int]*cursor                    // of the leases under which this process has committed, or that it has taken over
	unreadable map[actor.NotificationKey]struct{} // notifications that no key decrypts and that were logged
}

// New returns an outbox without a sink.
func New(pool *postgres.Pool, days *changelog.Days, keys *keyring.Keyring, log *zap.Logger) *Outbox {
	return &Outbox{pool: pool, days: days, keyring: keys, log: log, limits: limits{maxUsers, maxReadUsers}, partitions: make(map[int]*cursor)}
}

// SetSink sets what receives each notification after its commit. Without a sink (nil)
// notifications stay in the log, where Page finds them.
func (o *Outbox) SetSink(sink actor.NotificationSink) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sink = sink
}

// Send passes committed notifications to the sink, those of a partition in the order of their
// positions.
func (o *Outbox) Send(notifications []actor.PendingNotification) {
	sink, missed := o.track(notifications)
	if sink == nil {
		return
	}
	for _, partition := range missed {
		sink.Missed(partition)
	}
	for _, n := range notifications {
		sink.Send(n)
	}
}

// track adds notifications to the cursors. It returns the partitions whose cursors have become
// incomplete.
func (o *Outbox) track(notifications []actor.PendingNotification) (sink actor.NotificationSink, missed []int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range notifications {
		n := &notifications[i]
		if c := o.cursorLocked(n.Lease); c != nil && c.commit(n.UserID, n.Position, n.CommittedAt) {
			missed = append(missed, n.Lease.Partition)
		}
	}
	return o.sink, missed
}

// Missed says that changes may have been committed under a lease that were not passed to Send.
func (o *Outbox) Missed(lease partition.Lease) {
	o.mu.Lock()
	c, sink := o.cursorLocked(lease), o.sink
	if c != nil {
		c.miss()
	}
	o.mu.Unlock()
	if c != nil && sink != nil {
		sink.Missed(lease.Partition)
	}
}

// cursorLocked returns the cursor of a lease. One that TakeOver has not read knows nothing of
// what was committed before. If this process has a later lease, cursorLocked returns nil: the
// take-over of that lease has read, or reads, what was committed under the earlier one. mu must
// be held.
func (o *Outbox) cursorLocked(lease partition.Lease) *cursor {
	c := o.partitions[lease.Partition]
	switch {
	case c == nil || c.lease.Epoch < lease.Epoch:
		c = newCursor(lease, o.limits)
		o.partitions[lease.Partition] = c
	case c.lease != lease:
		return nil
	}
	return c
}

// Forget forgets the cursors whose leases have ended.
func (o *Outbox) Forget(ended func(partition.Lease) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.DeleteFunc(o.partitions, func(_ int, c *cursor) bool { return ended(c.lease) })
}

// Confirm says that the broker has taken these notifications.
func (o *Outbox) Confirm(keys ...actor.NotificationKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, key := range keys {
		if c := o.partitions[key.Partition]; c != nil {
			c.confirm(key.UserID, key.Position)
		}
	}
}

// Survey returns the first unconfirmed notifications of each of the partitions, one for each
// user, up to limit of each partition. Of a partition whose log has to be read it returns those
// that were read, and one of no user.
func (o *Outbox) Survey(partitions []int, limit int) (all []actor.StoredNotification) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range partitions {
		if c := o.partitions[p]; c != nil {
			all = append(all, c.survey(limit, time.Now())...)
		}
	}
	return all
}
