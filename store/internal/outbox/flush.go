package outbox

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/postgres"
)

const (
	// moveCursors writes cursors whose leases have not ended, and locks their rows: a claim that
	// would end the leases waits for the flush. So it updates also what a later flush has written,
	// if a lost one comes after that. The flush of a release comes before the release.
	moveCursors = `UPDATE ident_partitions p SET notified = greatest(p.notified, c.position), notified_on = greatest(p.notified_on, c.since)
		FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::date[])
			AS c (partition, epoch, holder, start, session, position, since)
		WHERE p.partition = c.partition AND p.epoch = c.epoch AND p.holder = c.holder AND p.holder_start = c.start AND p.holder_session = c.session
			AND NOT p.released`

	// holdBack writes users that are held back, if the leases have not ended. If a lost flush
	// comes after a later one, the later one's position stays. The day of the first position
	// bounds those of later ones.
	holdBack = `INSERT INTO ident_held_back AS h (partition, user_id, position, since)
		SELECT n.partition, n.user_id, n.position, n.since
		FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::date[])
			AS n (partition, epoch, holder, start, session, user_id, position, since)
		WHERE EXISTS (SELECT FROM ident_partitions p WHERE p.partition = n.partition AND p.epoch = n.epoch AND p.holder = n.holder
			AND p.holder_start = n.start AND p.holder_session = n.session AND NOT p.released)
		ON CONFLICT (partition, user_id) DO UPDATE SET position = excluded.position WHERE h.position < excluded.position`

	// holdBackNoLonger deletes users whose changes were notified up to a position. A row with a
	// greater one is of a later flush.
	holdBackNoLonger = `DELETE FROM ident_held_back h
		USING unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
			AS d (partition, epoch, holder, start, session, user_id, position), LATERAL (
			SELECT n.ctid FROM ident_held_back n
			WHERE n.partition = d.partition AND n.user_id = d.user_id AND n.position <= d.position
				AND EXISTS (SELECT FROM ident_partitions p WHERE p.partition = d.partition AND p.epoch = d.epoch AND p.holder = d.holder
					AND p.holder_start = d.start AND p.holder_session = d.session AND NOT p.released)
			OFFSET 0) AS found
		WHERE h.ctid = found.ctid`

	// deleteSealed deletes encrypted notifications of partitions that were sent: those after the
	// positions $2, where the cursors were before.
	deleteSealed = `DELETE FROM ident_sealed s
		USING unnest($1::int[], $2::bigint[]) AS d (partition, after), LATERAL (
			SELECT n.ctid FROM ident_sealed n
			WHERE n.partition = d.partition AND n.position > d.after
				AND n.position <= (SELECT p.notified FROM ident_partitions p WHERE p.partition = d.partition)
				AND coalesce((SELECT h.position FROM ident_held_back h WHERE h.partition = n.partition AND h.user_id = n.user_id) > n.position, true)
			OFFSET 0) AS sent
		WHERE s.ctid = sent.ctid`

	// deleteSealedOf deletes those of users that were held back, which the cursors have passed. The
	// additions keep other users' out of what is searched.
	deleteSealedOf = `DELETE FROM ident_sealed s
		USING unnest($1::int[], $2::bigint[]) AS d (partition, user_id), LATERAL (
			SELECT least(p.notified + 1, (SELECT h.position FROM ident_held_back h WHERE h.partition = d.partition AND h.user_id = d.user_id)) AS position
			FROM ident_partitions p WHERE p.partition = d.partition OFFSET 0) AS first, LATERAL (
			SELECT n.ctid FROM ident_sealed n
			WHERE n.user_id = d.user_id AND n.position + 0 < first.position AND n.partition + 0 = d.partition
			OFFSET 0) AS sent
		WHERE s.ctid = sent.ctid`

	day = 24 * time.Hour

	// flushEvery is how often cursors are written, so how much is sent again after a crash.
	flushEvery = time.Second
)

// A Flush writes cursors. Done must be called.
type Flush struct {
	outbox *Outbox
	moves  []move

	cursors, held, deleted leaseColumns
	positions, before      []int64 // of cursors
	days                   []time.Time
	heldUsers              []int64
	heldPositions          []int64
	heldDays               []time.Time
	deletedUsers           []int64
	deletedPositions       []int64
	passed                 userColumns // users with a row that is deleted or gets another position
}

// A move is what a Flush does to one cursor.
type move struct {
	cursor   *cursor
	position int64
	day      time.Time
	held     map[int64]int64 // the rows of ident_held_back that are written: user → position
	deleted  map[int64]int64 // those that are deleted
}

// userColumns are users as the parameters of a statement.
type userColumns struct {
	partitions []int
	users      []int64
}

func (c *userColumns) add(partition int, user int64) {
	c.partitions, c.users = append(c.partitions, partition), append(c.users, user)
}

// leaseColumns are leases as the parameters of a statement.
type leaseColumns struct {
	partitions       []int
	epochs           []int64
	holders          []string
	starts, sessions []int64
}

func (c *leaseColumns) add(l partition.Lease) {
	c.partitions, c.epochs = append(c.partitions, l.Partition), append(c.epochs, l.Epoch)
	c.holders = append(c.holders, l.Holder.Name)
	c.starts, c.sessions = append(c.starts, l.Holder.Incarnation.Start), append(c.sessions, l.Holder.Incarnation.Session)
}

func (c *leaseColumns) with(args ...any) []any {
	return append([]any{c.partitions, c.epochs, c.holders, c.starts, c.sessions}, args...)
}

// Flush begins to write the cursors that have moved.
func (o *Outbox) Flush() *Flush {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.flushLocked(slices.Collect(maps.Keys(o.cursors)))
}

// FlushPartitions is like Flush for some partitions, whose leases end.
func (o *Outbox) FlushPartitions(numbers []int) *Flush {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.flushLocked(slices.Clone(numbers))
}

// flushLocked begins to write some cursors. mu must be held.
func (o *Outbox) flushLocked(numbers []int) *Flush {
	f := &Flush{outbox: o}
	sink := o.sink.Load()
	if sink == nil {
		return f
	}
	slices.Sort(numbers) // the order in which all transactions lock the rows
	for _, number := range numbers {
		if c := o.cursors[number]; c != nil {
			if p, ok := (*sink).Progress(c.lease); ok {
				f.addLocked(c, &p, o.days.Today())
			}
		}
	}
	return f
}

// addLocked adds what has changed about a cursor. today may be zero. The outbox's mu must be held.
func (f *Flush) addLocked(c *cursor, p *actor.NotificationProgress, today time.Time) {
	m := move{cursor: c, position: max(p.Notified, c.notified), day: c.day, held: make(map[int64]int64), deleted: make(map[int64]int64)}
	if !today.IsZero() && m.position >= min(c.checked, p.Last) {
		since := c.checkedOn
		if m.position >= p.Last {
			since = today
		}
		if before := since.Add(-day); before.After(c.day) { // the clock of the database may go back, by less
			m.day = before
		}
		c.checked, c.checkedOn = p.Last, today
	}
	for user, position := range p.HeldBack {
		if row, found := c.heldBack[user]; !row.written || row.position < position {
			m.held[user], c.heldBack[user] = position, heldRow{position: position}
			f.held.add(c.lease)
			f.heldUsers, f.heldPositions, f.heldDays = append(f.heldUsers, user), append(f.heldPositions, position), append(f.heldDays, c.day)
			if found {
				f.passed.add(c.lease.Partition, user)
			}
		}
	}
	for user, row := range c.heldBack {
		if _, held := p.HeldBack[user]; !held {
			m.deleted[user] = row.position
			delete(c.heldBack, user)
			f.deleted.add(c.lease)
			f.deletedUsers, f.deletedPositions = append(f.deletedUsers, user), append(f.deletedPositions, row.position)
			f.passed.add(c.lease.Partition, user)
		}
	}
	if m.position == c.notified && m.day.Equal(c.day) && len(m.held)+len(m.deleted) == 0 {
		return
	}
	f.cursors.add(c.lease)
	f.positions, f.before, f.days = append(f.positions, m.position), append(f.before, c.notified), append(f.days, m.day)
	f.moves = append(f.moves, m)
}

// IsEmpty reports whether there is nothing to write.
func (f *Flush) IsEmpty() bool { return len(f.moves) == 0 }

// Queue adds the statements to a batch, which must be one transaction.
func (f *Flush) Queue(batch *pgx.Batch) {
	if f.IsEmpty() {
		return
	}
	batch.Queue(moveCursors, f.cursors.with(f.positions, f.days)...)
	if f.deletedUsers != nil {
		batch.Queue(holdBackNoLonger, f.deleted.with(f.deletedUsers, f.deletedPositions)...)
	}
	if f.heldUsers != nil {
		batch.Queue(holdBack, f.held.with(f.heldUsers, f.heldPositions, f.heldDays)...)
	}
	batch.Queue(deleteSealed, f.cursors.partitions, f.before)
	if f.passed.users != nil {
		batch.Queue(deleteSealedOf, f.passed.partitions, f.passed.users)
	}
}

// QueueNone adds the statements of a flush, which write nothing here, to a batch that prepares
// statements.
func QueueNone(batch *pgx.Batch) {
	var none leaseColumns
	batch.Queue(moveCursors, none.with([]int64{}, []time.Time{})...)
	batch.Queue(deleteSealed, none.partitions, []int64{})
}

// Done ends the flush. After an error the next one writes the same again.
func (f *Flush) Done(err error) {
	f.outbox.mu.Lock()
	defer f.outbox.mu.Unlock()
	for _, m := range f.moves {
		c := m.cursor
		if err != nil {
			for user, position := range m.deleted {
				if _, held := c.heldBack[user]; !held {
					c.heldBack[user] = heldRow{position: position}
				}
			}
			continue
		}
		c.notified = max(c.notified, m.position)
		if m.day.After(c.day) {
			c.day = m.day
		}
		for user, position := range m.held {
			if c.heldBack[user].position == position {
				c.heldBack[user] = heldRow{position, true}
			}
		}
	}
}

// Write writes the cursors that have moved.
func (o *Outbox) Write(ctx context.Context) (err error) {
	f := o.Flush()
	if f.IsEmpty() {
		return nil
	}
	defer func() { f.Done(err) }()
	batch := new(pgx.Batch)
	f.Queue(batch)
	if err := o.pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("noting what was notified: %w", err)
	}
	return nil
}

// WriteUntil writes the cursors each second until closing is closed, and once more then. The
// last attempt is cancelled with work.
func (o *Outbox) WriteUntil(work context.Context, closing <-chan struct{}) {
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	for open := true; open; {
		select {
		case <-ticker.C:
		case <-closing:
			open = false
		}
		ctx, cancel := context.WithTimeout(work, postgres.AttemptTimeout)
		if err := o.Write(ctx); err != nil {
			o.log.Warn("what was notified is not noted", zap.Error(err))
		}
		cancel()
	}
}
