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
	sink       func(actor.PendingNotification)
	confirmed  []int64               // ids that are still stored and in no removal
	removals   map[*Removal]struct{} // under way
	unreadable map[int64]struct{}    // ids of notifications that no key decrypts and that were logged
}

// New returns an outbox without a sink.
func New(pool *postgres.Pool, keys *keyring.Keyring, log *zap.Logger) *Outbox {
	return &Outbox{pool: pool, keyring: keys, log: log}
}

// SetSink sets the function that receives each notification after its commit, in the
// order of each user's changes. The sink may block; commits then wait. Without a sink
// (nil) notifications stay in the database, where Pending finds them.
func (o *Outbox) SetSink(sink func(actor.PendingNotification)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sink = sink
}

// Send passes committed notifications to the sink.
func (o *Outbox) Send(notifications []actor.PendingNotification) {
	o.mu.Lock()
	sink := o.sink
	o.mu.Unlock()
	if sink == nil {
		return
	}
	for _, n := range notifications {
		sink(n)
	}
}

// Confirm says that the broker has taken the notifications with these ids. They are
// deleted soon.
func (o *Outbox) Confirm(ids ...int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.confirmed = append(o.confirmed, ids...)
}

// A Removal is one attempt to delete confirmed notifications. The zero Removal deletes
// nothing; only Queue may be called on it.
type Removal struct {
	outbox *Outbox
	ids    []int64
	own    int // ids[:own] are in no other removal
}

// Remove begins a removal of the notifications that are confirmed and in no other
// removal. Done must be called.
func (o *Outbox) Remove() *Removal {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.removeLocked()
}

func (o *Outbox) removeLocked() *Removal {
	r := &Removal{outbox: o, ids: o.confirmed, own: len(o.confirmed)}
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
			r.ids = append(r.ids, other.ids...)
		}
	}
	return r
}

const deleteByID = "DELETE FROM ident_outbox WHERE id = ANY($1::bigint[])"

// Queue adds the statement that deletes the notifications to a batch, if there are any.
func (r *Removal) Queue(batch *pgx.Batch) {
	if len(r.ids) > 0 {
		batch.Queue(deleteByID, r.ids)
	}
}

// QueueDeleteNone adds the statement of a removal, which deletes nothing here, to a batch
// that prepares statements.
func QueueDeleteNone(batch *pgx.Batch) { batch.Queue(deleteByID, []int64{}) }

// Done ends the removal. After an error its notifications are left to the next removal.
func (r *Removal) Done(err error) {
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	delete(r.outbox.removals, r)
	if err != nil {
		r.outbox.confirmed = append(r.outbox.confirmed, r.ids[:r.own]...)
	}
}
