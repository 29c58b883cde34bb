package outbox

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/tracelog"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/postgres"
)

const (
	columns = "position, user_id, sequence, at, operation, change, coalesce(traceparent, '') AS traceparent"

	// pageOf reads changes of the partition $1 with positions above $2 that were not notified, as far
	// as the database knows, from the log of one day: at most $3 of them. The addition has a
	// held-back user's changes found by the user: by the position, all others would be read too.
	pageOf = `SELECT l.position, l.user_id, l.sequence, l.at, l.operation, l.change, l.traceparent, s.body
		FROM (
			SELECT later.* FROM ident_partitions AS p, LATERAL (
				SELECT ` + columns + ` FROM %[1]s WHERE partition = $1 AND position > greatest($2, p.notified) ORDER BY position LIMIT $3) AS later
			WHERE p.partition = $1
			UNION ALL
			SELECT earlier.* FROM ident_partitions AS p, ident_held_back AS h, LATERAL (
				SELECT ` + columns + ` FROM %[1]s WHERE user_id = h.user_id AND position >= greatest(h.position, $2 + 1) AND position <= p.notified
				AND partition + 0 = $1 ORDER BY position LIMIT $3) AS earlier
			WHERE p.partition = $1 AND h.partition = $1
			ORDER BY position LIMIT $3) AS l
		LEFT JOIN LATERAL (SELECT body FROM ident_sealed WHERE partition = $1 AND ident_sealed.position = l.position OFFSET 0) AS s ON true
		ORDER BY l.position`

	firstDay = `SELECT least(p.notified_on, (SELECT min(h.since) FROM ident_held_back h WHERE h.partition = p.partition))
		FROM ident_partitions p WHERE p.partition = $1`

	// beginPage begins a transaction whose statements have one snapshot. Otherwise a page could
	// lack a change that is committed to a table after it was read, and have a later one.
	beginPage = "begin isolation level repeatable read, read only"

	// maxUnreadableLogged bounds for how many notifications the outbox logs that no key
	// decrypts them. Rekey with DryRun lists all.
	maxUnreadableLogged = 1000
)

// Page returns the first notifications of a partition with positions above after that may not
// be confirmed, as far as the database knows, by position: at most limit, fewer if they are
// large. more says whether there may be others. A notification that no key decrypts has no body.
// A page is of one moment: it leaves out nothing that was committed before one that it has, and
// that may not be confirmed.
//
// If the caller holds the partition and has committed nothing to it yet, repeated calls
// return everything that is not confirmed: no earlier holder can add to it any more.
func (o *Outbox) Page(ctx context.Context, number int, after int64, limit int) (all []actor.PendingNotification, more bool, err error) {
	err = o.pool.Retry(ctx, func(ctx context.Context) error {
		all, more, err = o.page(ctx, number, after, limit)
		if changelog.IsWrongDay(err) {
			o.days.Forget()
			all, more, err = o.page(ctx, number, after, limit)
		}
		return err
	})
	if err != nil {
		return nil, false, postgres.LogError(ctx, o.log, "reading what is to be notified", err)
	}
	return all, more, nil
}

// page reads a page from the tables of all days that may have some of it. If there are more, the
// page is not empty.
func (o *Outbox) page(ctx context.Context, number int, after int64, limit int) (all []actor.PendingNotification, more bool, err error) {
	var since time.Time
	err = o.pool.QueryRow(ctx, firstDay, number).Scan(&since)
	if err != nil {
		return nil, false, err
	}
	tables, err := o.days.Tables(ctx)
	if err != nil {
		return nil, false, err
	}
	names, err := o.days.Since(ctx, since, tables)
	if err != nil {
		return nil, false, err
	}
	names = append(names, tables.Recent[2:]...)
	err = o.pool.Transact(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, beginPage); err != nil {
			return err
		}
		all, more, err = o.readDays(ctx, conn, names, number, after, limit)
		if err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "commit")
		return err
	})
	return all, more, err
}

// readDays reads a page from the tables of days, in a transaction with one snapshot.
func (o *Outbox) readDays(ctx context.Context, conn *pgx.Conn, tables []string, number int, after int64, limit int) (all []actor.PendingNotification, more bool, err error) {
	bytes, last := 0, int64(math.MaxInt64) // what was read has all positions up to last
	for _, table := range tables {
		rows, size, full, err := o.readDay(ctx, conn, table, number, after, limit)
		if err != nil {
			return nil, false, err
		}
		all, bytes = append(all, rows...), bytes+size
		// The clock of the database may have gone back over midnight, by less than a day.
		// Then some positions of a day are between those of the next day.
		isNext := more
		more = more || len(all) >= limit || bytes >= postgres.MaxPageBytes
		if more && len(rows) > 0 && (full || !isNext) {
			last = min(last, rows[len(rows)-1].Position)
		}
		if isNext {
			break
		}
	}
	slices.SortStableFunc(all, func(a, b actor.PendingNotification) int { return cmp.Compare(a.Position, b.Position) })
	return firstOf(all, limit, last), more, nil
}

// firstOf returns the notifications up to a position: at most limit, and not many more bytes than
// a page should have.
func firstOf(all []actor.PendingNotification, limit int, last int64) []actor.PendingNotification {
	bytes := 0
	for i := range all {
		if i == limit || bytes >= postgres.MaxPageBytes || all[i].Position > last {
			return all[:i]
		}
		bytes += len(all[i].Body)
	}
	return all
}

// readDay reads a page from the table of a day, and how many bytes it has. full says whether the
// table may have more.
func (o *Outbox) readDay(ctx context.Context, conn *pgx.Conn, table string, number int, after int64, limit int) (all []actor.PendingNotification, bytes int, full bool, err error) {
	rows, _ := conn.Query(ctx, fmt.Sprintf(pageOf, table), number, after, limit)
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		if full {
			return struct{}{}, nil
		}
		n, err := o.scan(row, number)
		if err != nil {
			return struct{}{}, err
		}
		all, bytes = append(all, n), bytes+len(n.Body)
		full = len(all) == limit || bytes >= postgres.MaxPageBytes
		return struct{}{}, nil
	})
	return all, bytes, full, err
}

// scan reads a row of pageOf.
func (o *Outbox) scan(row pgx.CollectableRow, number int) (n actor.PendingNotification, err error) {
	var operation string
	var change, sealed []byte
	n.Lease.Partition = number
	err = row.Scan(&n.Position, &n.UserID, &n.Sequence, &n.CommittedAt, &operation, &change, &n.TraceParent, &sealed)
	if err != nil {
		return n, err
	}
	body, err := actor.NotificationOf(operation, n.UserID, change)
	if err != nil {
		return n, err
	}
	n.RoutingKey, n.Body = body.RoutingKey, body.Body
	if sealed == nil {
		return n, nil
	}
	if n.Body, err = o.keyring.Open(sealed); err != nil && o.noteUnreadable(n.Key()) {
		tracelog.With(o.log, n.TraceParent).Error("notification cannot be read, so those of its user are held back",
			zap.Int("partition", number), zap.Int64("position", n.Position), zap.Int64("user_id", n.UserID), zap.Error(err))
	}
	return n, nil
}

// QueueNoPage adds the statements of Page, which finds nothing here, to a batch that
// prepares statements.
func QueueNoPage(batch *pgx.Batch, t changelog.Tables) {
	batch.Queue(firstDay, -1)
	for _, table := range t.Recent {
		batch.Queue(fmt.Sprintf(pageOf, table), -1, int64(0), 1)
	}
}

// noteUnreadable reports whether an unreadable notification is to be logged: once each,
// because it is read again and again.
func (o *Outbox) noteUnreadable(key actor.NotificationKey) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, logged := o.unreadable[key]; logged || len(o.unreadable) == maxUnreadableLogged {
		return false
	}
	if o.unreadable == nil {
		o.unreadable = make(map[actor.NotificationKey]struct{})
	}
	o.unreadable[key] = struct{}{}
	return true
}
