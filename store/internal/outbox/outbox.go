package outbox

import (
	"sync"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/postgres"
)

// An Outbox hands notifications to their sink and deletes confirmed ones. It is safe for
// concurrent use.
type Outbox struct {
	pool    *postgres.Pool
	keyring *keyring.Keyring
	log     *zap.Logger

	mu         sync.Mutex // guards the following fields
	sink       actor.NotificationSink
	confirmed  []actor.NotificationKey // those that are still stored and in no removal
	removals   map[*Removal]struct{}   // under way
	unreadable map[int64]struct{}      // ids of notifications that no key decrypts and that were logged
}

// New returns an outbox without a sink.
func New(pool *postgres.Pool, keys *keyring.Keyring, log *zap.Logger) *Outbox {
	return &Outbox{pool: pool, keyring: keys, log: log}
}

// SetSink sets what receives each notification after its commit. Without a sink (nil)
// notifications stay in the database, where Page finds them.
func (o *Outbox) SetSink(sink actor.NotificationSink) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sink = sink
}

// Send passes committed notifications to the sink. missed has the partitions with further
// ones that may have been committed before.
func (o *Outbox) Send(notifications []actor.PendingNotification, missed []int) {
	o.mu.Lock()
	sink := o.sink
	o.mu.Unlock()
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

// Confirm says that the broker has taken these notifications. They are deleted soon.
func (o *Outbox) Confirm(keys ...actor.NotificationKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.confirmed = append(o.confirmed, keys...)
}

// A Removal is one attempt to delete confirmed notifications. The zero Removal deletes
// nothing; only Queue may be called on it.
type Removal struct {
	outbox *Outbox
	keys   []actor.NotificationKey
	own    int // keys[:own] are in no other removal
}

// Remove begins a removal of the notifications that are confirmed and in no other
// removal. Done must be called.
func (o *Outbox) Remove() *Removal {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.removeLocked()
}

func (o *Outbox) removeLocked() *Removal {
	r := &Removal{outbox: o, keys: o.confirmed, own: len(o.confirmed)}
	o.confirmed = nil
	if o.removals == nil {
		o.removals = make(map[*Removal]struct{})
	}
	o.removals[r] = struct{}{}
	return r
}

// RemoveAll begins a removal of all confirmed notifications, including those in other
// removals. Done must be called.
func (o *Outbox) RemoveAll() *Removal {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.removeLocked()
	for other := range o.removals {
		if other != r {
			r.keys = append(r.keys, other.keys...)
		}
	}
	return r
}

const deleteByKey = `DELETE FROM ident_outbox
	WHERE id = ANY($1::bigint[]) AND message_id = ($2::uuid[])[array_position($1::bigint[], id)]`

// columnsOf returns keys as the parameters of deleteByKey.
func columnsOf(keys []actor.NotificationKey) []any {
	ids, messageIDs := make([]int64, len(keys)), make([][16]byte, len(keys))
	for i, key := range keys {
		ids[i], messageIDs[i] = key.ID, key.MessageID
	}
	return []any{ids, messageIDs}
}

// isConfirmed returns the notifications that are confirmed, although a removal may not
// have deleted them yet.
func (o *Outbox) isConfirmed() map[actor.NotificationKey]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	confirmed := make(map[actor.NotificationKey]bool, len(o.confirmed))
	for _, key := range o.confirmed {
		confirmed[key] = true
	}
	for r := range o.removals {
		for _, key := range r.keys {
			confirmed[key] = true
		}
	}
	return confirmed
}

// Queue adds the statement that deletes the notifications to a batch, if there are any.
func (r *Removal) Queue(batch *pgx.Batch) {
	if len(r.keys) > 0 {
		batch.Queue(deleteByKey, columnsOf(r.keys)...)
	}
}

// QueueDeleteNone adds the statement of a removal, which deletes nothing here, to a batch
// that prepares statements.
func QueueDeleteNone(batch *pgx.Batch) { batch.Queue(deleteByKey, columnsOf(nil)...) }

// Done ends the removal. After an error its notifications are left to the next removal.
func (r *Removal) Done(err error) {
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	delete(r.outbox.removals, r)
	if err != nil {
		r.outbox.confirmed = append(r.outbox.confirmed, r.keys[:r.own]...)
	}
}
