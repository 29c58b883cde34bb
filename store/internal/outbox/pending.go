package outbox

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/postgres"
)

const (
	columns = "SELECT id, user_id, coalesce(partition, -1), message_id, routing_key, coalesce(traceparent, ''), body, sealed FROM "

	ofPartitions = " AND (partition IS NULL OR partition = ANY($5::int[]))"

	// maxUnreadableLogged bounds for how many notifications the outbox logs that no key
	// decrypts them. Rekey with DryRun lists all.
	maxUnreadableLogged = 1000

	// sweepEvery bounds how long a confirmed notification stays stored when no commit
	// deletes it.
	sweepEvery = time.Second
)

// page reads notifications with an id greater than $1 that are at least $2 old and pass
// the filter: at most $3 of them, and no more once they have $4 bytes.
func page(filter string) string {
	return columns + `(
			SELECT *, sum(octet_length(body)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS bytes FROM ident_outbox
			WHERE id > $1 AND committed_at <= now() - $2::interval` + filter + ` ORDER BY id LIMIT $3) AS page
		WHERE bytes - octet_length(body) < $4 ORDER BY id`
}

// Pending returns stored notifications by id, from afterID on, that were committed at
// least age ago: at most limit, fewer if they are large. They are of the given partitions
// (nil: of all) or of none. A notification that no key decrypts has no body.
//
// If the caller holds the partitions and has committed nothing to them yet, repeated
// calls with age 0 return everything that is not confirmed: no earlier holder can add to
// it any more.
func (o *Outbox) Pending(ctx context.Context, partitions []int, afterID int64, age time.Duration, limit int) ([]actor.PendingNotification, error) {
	filter, args := "", []any{afterID, age, limit, postgres.MaxPageBytes}
	if partitions != nil {
		filter = ofPartitions
		args = append(args, partitions)
	}
	var pending []actor.PendingNotification
	err := o.pool.Retry(ctx, func(ctx context.Context) error {
		if err := o.DeleteConfirmed(ctx); err != nil {
			return err
		}
		rows, err := o.pool.Query(ctx, page(filter), args...)
		if err != nil {
			return err
		}
		pending, err = o.collect(rows)
		return err
	})
	if err != nil {
		return nil, postgres.LogError(ctx, o.log, "reading the outbox", err)
	}
	return pending, nil
}

// QueueFirstPage adds the statement of Pending, with afterID 0 and age 0, to a batch. The
// result goes to pending.
func (o *Outbox) QueueFirstPage(batch *pgx.Batch, partitions []int, limit int, pending *[]actor.PendingNotification) {
	batch.Queue(page(ofPartitions), int64(0), time.Duration(0), limit, postgres.MaxPageBytes, partitions).Query(func(rows pgx.Rows) (err error) {
		*pending, err = o.collect(rows)
		return err
	})
}

// QueueNoPage adds the statement of QueueFirstPage, which finds nothing here, to a batch
// that prepares statements.
func QueueNoPage(batch *pgx.Batch) {
	batch.Queue(page(ofPartitions), int64(math.MaxInt64), time.Duration(0), 1, postgres.MaxPageBytes, []int{})
}

// QueueOfUsers adds a statement that reads all stored notifications of some users to a
// batch. It appends them to pending.
func (o *Outbox) QueueOfUsers(batch *pgx.Batch, users []int64, pending *[]actor.PendingNotification) {
	batch.Queue(columns+"ident_outbox WHERE user_id = ANY($1::bigint[]) ORDER BY id", users).Query(func(rows pgx.Rows) error {
		stored, err := o.collect(rows)
		*pending = append(*pending, stored...)
		return err
	})
}

func (o *Outbox) collect(rows pgx.Rows) ([]actor.PendingNotification, error) {
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (n actor.PendingNotification, err error) {
		var sealed bool
		if err = r.Scan(&n.ID, &n.UserID, &n.Partition, &n.MessageID, &n.RoutingKey, &n.TraceParent, &n.Body, &sealed); err != nil || !sealed {
			return n, err
		}
		if n.Body, err = o.keyring.Open(n.Body); err != nil {
			if o.noteUnreadable(n.ID) {
				o.log.Error("notification cannot be read, so those of its user are held back",
					zap.Int64("id", n.ID), zap.Int64("user_id", n.UserID), zap.Error(err))
			}
		}
		return n, nil
	})
}

// noteUnreadable reports whether an unreadable notification is to be logged: once each,
// because it is read again and again.
func (o *Outbox) noteUnreadable(id int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, logged := o.unreadable[id]; logged || len(o.unreadable) == maxUnreadableLogged {
		return false
	}
	if o.unreadable == nil {
		o.unreadable = make(map[int64]struct{})
	}
	o.unreadable[id] = struct{}{}
	return true
}

// DeleteConfirmed deletes the confirmed notifications that are in no other removal.
func (o *Outbox) DeleteConfirmed(ctx context.Context) (err error) {
	r := o.Remove()
	defer func() { r.Done(err) }()
	if len(r.ids) == 0 {
		return nil
	}
	if _, err := o.pool.Exec(ctx, deleteByID, r.ids); err != nil {
		return fmt.Errorf("emptying the outbox: %w", err)
	}
	return nil
}

// Sweep deletes confirmed notifications that no commit deletes, until closing is closed,
// and once more then. The last deletion is cancelled with work.
func (o *Outbox) Sweep(work context.Context, closing <-chan struct{}) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for open := true; open; {
		select {
		case <-ticker.C:
		case <-closing:
			open = false
		}
		ctx, cancel := context.WithTimeout(work, postgres.AttemptTimeout)
		if err := o.DeleteConfirmed(ctx); err != nil {
			o.log.Warn("outbox not emptied", zap.Error(err))
		}
		cancel()
	}
}
