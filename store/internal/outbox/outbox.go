package outbox

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/postgres"
)

// An Outbox passes notifications to their sink, and writes down what the sink says about them.
// It is safe for concurrent use.
type Outbox struct {
	pool    *postgres.Pool
	days    *changelog.Days
	keyring *keyring.Keyring
	log     *zap.Logger

	sink atomic.Pointer[actor.NotificationSink] // nil: none

	mu         sync.Mutex                         // guards the following fields
	cursors    map[int]*cursor                    // of the leases that were taken over
	unreadable map[actor.NotificationKey]struct{} // notifications that no key decrypts and that were logged
}

// A cursor is what the database has about the notifications of a partition.
type cursor struct {
	lease    partition.Lease
	notified int64     // the position in the database, or a lower one
	day      time.Time // no later change is in the log of an earlier day
	heldBack map[int64]heldRow

	// No change above checked is in the log of a day before that of checkedOn.
	checked   int64
	checkedOn time.Time
}

// A heldRow is a row of ident_held_back.
type heldRow struct {
	position int64
	written  bool // otherwise the database may have the row, perhaps with a lower position
}

// New returns an outbox without a sink.
func New(pool *postgres.Pool, days *changelog.Days, keys *keyring.Keyring, log *zap.Logger) *Outbox {
	return &Outbox{pool: pool, days: days, keyring: keys, log: log, cursors: make(map[int]*cursor)}
}

// SetSink sets what receives each notification after its commit. Without a sink (nil)
// notifications stay in the log, where Page finds them.
func (o *Outbox) SetSink(sink actor.NotificationSink) {
	if sink == nil {
		o.sink.Store(nil)
	} else {
		o.sink.Store(&sink)
	}
}

// Send passes committed notifications to the sink, those of a partition in the order of their
// positions.
func (o *Outbox) Send(notifications []actor.PendingNotification) {
	if sink := o.sink.Load(); sink != nil {
		for _, n := range notifications {
			(*sink).Send(n)
		}
	}
}

// Missed says that changes may have been committed under a lease that were not passed to Send.
func (o *Outbox) Missed(lease partition.Lease) {
	if sink := o.sink.Load(); sink != nil {
		(*sink).Missed(lease)
	}
}

// TakeOver begins to note what is notified under a lease. The sink is told what was notified
// before.
func (o *Outbox) TakeOver(s actor.TakenOver, notifiedOn time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.cursors[s.Lease.Partition]; c != nil && c.lease.Epoch > s.Lease.Epoch {
		return
	}
	c := &cursor{lease: s.Lease, notified: s.Notified, day: notifiedOn, heldBack: make(map[int64]heldRow, len(s.HeldBack))}
	for user, position := range s.HeldBack {
		c.heldBack[user] = heldRow{position, true}
	}
	o.cursors[s.Lease.Partition] = c
}

// Forget forgets the leases that have ended.
func (o *Outbox) Forget(ended func(partition.Lease) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.DeleteFunc(o.cursors, func(_ int, c *cursor) bool {
		if !ended(c.lease) {
			return false
		}
		if sink := o.sink.Load(); sink != nil {
			(*sink).Abandon(c.lease)
		}
		return true
	})
}
