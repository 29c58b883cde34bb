package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/postgres"
)

// outbox hands notifications over to whoever sends them.
type outbox struct {
	mu        sync.Mutex // guards the following fields
	sink      func(actor.PendingNotification)
	delivered []int64               // ids that are still stored
	removals  map[*removal]struct{} // under way
	sealed    map[int64]struct{}    // ids of which it was logged that no key opens them
}

// A removal is a try to delete what was delivered.
type removal struct {
	outbox *outbox
	ids    []int64
	own    int // how many of ids no other removal has
}

const (
	outboxColumns = "SELECT id, user_id, coalesce(partition, -1), message_id, routing_key, coalesce(traceparent, ''), body, sealed FROM "
	deleteOutbox  = "DELETE FROM ident_outbox WHERE id = ANY($1::bigint[])"

	// maxSealedLogged is of how many notifications at most it is logged that no key
	// opens them; Rekey with DryRun lists all.
	maxSealedLogged = 1000

	// sweepEvery is how long a notification that was delivered may stay
	// stored, when no commit takes it along.
	sweepEvery = time.Second
)

// SetNotificationSink has each notification handed to sink after its commit, in the order
// of each user's changes. Sink may block; commits then wait. With nil they
// stay in the database, for PendingNotifications to find.
func (s *Store) SetNotificationSink(sink func(actor.PendingNotification)) {
	s.outbox.mu.Lock()
	defer s.outbox.mu.Unlock()
	s.outbox.sink = sink
}

func (o *outbox) send(notifications []actor.PendingNotification) {
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

// PendingNotifications returns up to limit notifications, fewer if they are large, of
// these partitions, nil for all, and those of which no partition is known, that
// are in the database and were committed at least age ago, by id from afterID
// on. One that no key opens has no body.
//
// For whoever holds the partitions, and has committed nothing to them yet, what one
// call after another returns, with age 0, is all that was not delivered: no earlier
// holder can add to it any more.
func (s *Store) PendingNotifications(ctx context.Context, partitions []int, afterID int64, age time.Duration, limit int) ([]actor.PendingNotification, error) {
	filter, args := "", []any{afterID, age, limit, maxPageBytes}
	if partitions != nil {
		filter = outboxOfPartitions
		args = append(args, partitions)
	}
	var all []actor.PendingNotification
	err := s.pool.Retry(ctx, func(ctx context.Context) error {
		if err := s.deleteDelivered(ctx); err != nil {
			return err
		}
		rows, err := s.pool.Query(ctx, outboxPage(filter), args...)
		if err != nil {
			return err
		}
		all, err = s.readOutbox(rows)
		return err
	})
	if err != nil {
		return nil, s.logged(ctx, "reading the outbox", err)
	}
	return all, nil
}

// TakeOver returns those of the leases that by holds, and of the partitions of all what
// PendingNotifications returns from the beginning on, in one round trip.
func (s *Store) TakeOver(ctx context.Context, by ownership.Member, leases []partition.Lease, limit int) (held []partition.Lease, left []actor.PendingNotification, err error) {
	var partitions []int
	var epochs []int64
	for _, l := range leases {
		partitions, epochs = append(partitions, l.Partition), append(epochs, l.Epoch)
	}
	err = s.pool.Retry(ctx, func(ctx context.Context) error {
		if err := s.deleteDelivered(ctx); err != nil {
			return err
		}
		batch := new(pgx.Batch)
		batch.Queue(heldLeases, by.Name, by.Incarnation.Start, by.Incarnation.Session, partitions, epochs).Query(func(rows pgx.Rows) (err error) {
			held, err = pgx.CollectRows(rows, pgx.RowToStructByPos[partition.Lease])
			return err
		})
		batch.Queue(outboxPage(outboxOfPartitions), int64(0), time.Duration(0), limit, maxPageBytes, partitions).Query(func(rows pgx.Rows) (err error) {
			left, err = s.readOutbox(rows)
			return err
		})
		return s.pool.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return nil, nil, s.logged(ctx, "taking partitions over", err)
	}
	return held, left, nil
}

const heldLeases = `SELECT partition, epoch
	FROM unnest($4::int[], $5::bigint[]) AS l (partition, epoch) JOIN ident_partitions USING (partition, epoch)
	WHERE NOT released AND holder = $1 AND holder_start = $2 AND holder_session = $3`

const outboxOfPartitions = " AND (partition IS NULL OR partition = ANY($5::int[]))"

// outboxPage reads what comes after $1, is of age $2 at least and passes the filter:
// $3 at most, and no more once $4 bytes are reached.
func outboxPage(filter string) string {
	return outboxColumns + `(
			SELECT *, sum(octet_length(body)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS bytes FROM ident_outbox
			WHERE id > $1 AND committed_at <= now() - $2::interval` + filter + ` ORDER BY id LIMIT $3) AS page
		WHERE bytes - octet_length(body) < $4 ORDER BY id`
}

func (s *Store) readOutbox(rows pgx.Rows) ([]actor.PendingNotification, error) {
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (n actor.PendingNotification, err error) {
		var sealed bool
		if err = r.Scan(&n.ID, &n.UserID, &n.Partition, &n.MessageID, &n.RoutingKey, &n.TraceParent, &n.Body, &sealed); err != nil || !sealed {
			return n, err
		}
		if n.Body, err = s.keyring.Open(n.Body); err != nil {
			if s.outbox.isNews(n.ID) {
				s.log.Error("notification cannot be read, so those of its user are held back",
					zap.Int64("id", n.ID), zap.Int64("user_id", n.UserID), zap.Error(err))
			}
		}
		return n, nil
	})
}

// isNews says whether it is to be logged of a notification that no key opens it: once,
// as it is read again and again.
func (o *outbox) isNews(id int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, logged := o.sealed[id]; logged || len(o.sealed) == maxSealedLogged {
		return false
	}
	if o.sealed == nil {
		o.sealed = make(map[int64]struct{})
	}
	o.sealed[id] = struct{}{}
	return true
}

// ConfirmNotifications says that the broker has taken the notifications with these ids.
// They are removed from the database soon.
func (s *Store) ConfirmNotifications(ids ...int64) { s.outbox.ConfirmNotifications(ids...) }

func (o *outbox) ConfirmNotifications(ids ...int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.delivered = append(o.delivered, ids...)
}

// remove begins a removal of what was delivered and is not being removed yet.
// Its done must be called.
func (o *outbox) remove() *removal {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.removeLocked()
}

func (o *outbox) removeLocked() *removal {
	r := &removal{outbox: o, ids: o.delivered, own: len(o.delivered)}
	o.delivered = nil
	if o.removals == nil {
		o.removals = make(map[*removal]struct{})
	}
	o.removals[r] = struct{}{}
	return r
}

// removeAll is remove, of what others are removing as well.
func (o *outbox) removeAll() *removal {
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

// done ends the removal. On an error it is left to the next one.
func (r *removal) done(err error) {
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	delete(r.outbox.removals, r)
	if err != nil {
		r.outbox.delivered = append(r.outbox.delivered, r.ids[:r.own]...)
	}
}

func (s *Store) deleteDelivered(ctx context.Context) (err error) {
	r := s.outbox.remove()
	defer func() { r.done(err) }()
	if len(r.ids) == 0 {
		return nil
	}
	if _, err := s.pool.Exec(ctx, deleteOutbox, r.ids); err != nil {
		return fmt.Errorf("emptying the outbox: %w", err)
	}
	return nil
}

// sweepOutbox removes what was delivered and no commit took along.
func (s *Store) sweepOutbox() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for open := true; open; {
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			open = false
		}
		ctx, cancel := context.WithTimeout(s.work, postgres.AttemptTimeout)
		if err := s.deleteDelivered(ctx); err != nil {
			s.log.Warn("outbox not emptied", zap.Error(err))
		}
		cancel()
	}
}
