package outbox

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/postgres"
)

const (
	// page reads notifications of the partition $1 with ids above $2: at most $3 of them,
	// and no more once they have $4 bytes. Its comparisons leave no other index to use
	// than the one by partition and id.
	page = `SELECT id, user_id, partition, message_id, routing_key, coalesce(traceparent, ''), body, sealed, bytes FROM (
			SELECT *, sum(octet_length(body)) OVER (ORDER BY partition, id + 0 ROWS UNBOUNDED PRECEDING) AS bytes FROM ident_outbox
			WHERE (partition, id + 0) > ($1, $2) AND partition <= $1 ORDER BY partition, id + 0 LIMIT $3) AS page
		WHERE bytes - octet_length(body) < $4 ORDER BY id`

	// survey reads the first $2 notifications of each of the partitions $1.
	survey = `SELECT p, o.id, o.user_id, greatest(now() - o.committed_at, '0'::interval)
		FROM unnest($1::int[]) AS p CROSS JOIN LATERAL (
			SELECT id, user_id, committed_at FROM ident_outbox
			WHERE (partition, id + 0) > (p, 0) AND partition <= p ORDER BY partition, id + 0 LIMIT $2) AS o`

	// Backlog is an expression: whether a partition, named by the column partition of l,
	// has any notification.
	Backlog = "EXISTS (SELECT FROM ident_outbox o WHERE (o.partition, o.id + 0) > (l.partition, 0) AND o.partition <= l.partition)"

	// maxUnreadableLogged bounds for how many notifications the outbox logs that no key
	// decrypts them. Rekey with DryRun lists all.
	maxUnreadableLogged = 1000

	// sweepEvery bounds how long a confirmed notification stays stored when no commit
	// deletes it.
	sweepEvery = time.Second
)

// Page returns the first stored notifications of a partition with ids above afterID, by
// id: at most limit, fewer if they are large. more says whether there may be others. A
// notification that no key decrypts has no body.
//
// If the caller holds the partition and has committed nothing to it yet, repeated calls
// return everything that is not confirmed: no earlier holder can add to it any more.
func (o *Outbox) Page(ctx context.Context, partition int, afterID int64, limit int) (all []actor.PendingNotification, more bool, err error) {
	err = o.pool.Retry(ctx, func(ctx context.Context) error {
		if err := o.DeleteConfirmed(ctx); err != nil {
			return err
		}
		rows, err := o.pool.Query(ctx, page, partition, afterID, limit, postgres.MaxPageBytes)
		if err != nil {
			return err
		}
		all, more, err = o.collect(rows, limit)
		return err
	})
	if err != nil {
		return nil, false, postgres.LogError(ctx, o.log, "reading the outbox", err)
	}
	return all, more, nil
}

// QueueNoPage adds the statement of Page, which finds nothing here, to a batch that
// prepares statements.
func QueueNoPage(batch *pgx.Batch) {
	batch.Queue(page, -1, int64(math.MaxInt64), 1, postgres.MaxPageBytes)
}

// collect reads the rows of a page, and leaves out those that are confirmed.
func (o *Outbox) collect(rows pgx.Rows, limit int) (all []actor.PendingNotification, more bool, err error) {
	confirmed := o.isConfirmed()
	count, bytes := 0, int64(0)
	all, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (n actor.PendingNotification, err error) {
		var sealed bool
		count++
		if err = r.Scan(&n.ID, &n.UserID, &n.Partition, &n.MessageID, &n.RoutingKey, &n.TraceParent, &n.Body, &sealed, &bytes); err != nil || !sealed {
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
	all = slices.DeleteFunc(all, func(n actor.PendingNotification) bool { return confirmed[n.Key()] })
	return all, count == limit || bytes >= postgres.MaxPageBytes, err
}

// Survey returns the first stored notifications of each of the partitions, up to limit of
// each.
func (o *Outbox) Survey(ctx context.Context, partitions []int, limit int) (all []actor.StoredNotification, err error) {
	err = o.pool.Retry(ctx, func(ctx context.Context) error {
		rows, err := o.pool.Query(ctx, survey, partitions, limit)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[actor.StoredNotification])
		return err
	})
	if err != nil {
		return nil, postgres.LogError(ctx, o.log, "surveying the outbox", err)
	}
	return all, nil
}

// maxAssigned is how many notifications AssignPartitions assigns at a time.
const maxAssigned = 1000

// AssignPartitions gives a partition to the notifications that are older than the
// partitions.
func (o *Outbox) AssignPartitions(ctx context.Context, of func(user int64) int) error {
	for {
		rows, err := o.pool.Query(ctx, "SELECT id, user_id FROM ident_outbox WHERE partition IS NULL LIMIT $1", maxAssigned)
		if err != nil {
			return fmt.Errorf("reading the outbox: %w", err)
		}
		var ids []int64
		var partitions []int
		var id, user int64
		_, err = pgx.ForEachRow(rows, []any{&id, &user}, func() error {
			ids, partitions = append(ids, id), append(partitions, of(user))
			return nil
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		_, err = o.pool.Exec(ctx, `UPDATE ident_outbox o SET partition = a.partition
			FROM unnest($1::bigint[], $2::int[]) AS a (id, partition) WHERE o.id = a.id`, ids, partitions)
		if err != nil {
			return fmt.Errorf("assigning notifications to partitions: %w", err)
		}
	}
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
	if len(r.keys) == 0 {
		return nil
	}
	if _, err := o.pool.Exec(ctx, deleteByKey, columnsOf(r.keys)...); err != nil {
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
