package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/postgres"
)

// epochTimeout bounds a change to the epoch table, all tries included.
const epochTimeout = 5 * time.Second

const (
	releaseLeases = `UPDATE ident_partitions p SET released = true
		FROM unnest($1::int[], $2::bigint[]) AS l (partition, epoch)
		WHERE p.partition = l.partition AND p.epoch = l.epoch AND NOT p.released`

	grantLeases = `UPDATE ident_partitions p
		SET epoch = p.epoch + 1, holder = l.name, holder_start = l.start, holder_session = l.session, claimed_at = now()
		FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[]) AS l (partition, epoch, name, start, session)
		WHERE p.partition = l.partition AND p.epoch = l.epoch AND NOT p.released`

	// needNotLast says that a transaction may be lost if the database crashes soon. A
	// release may: whoever claims what is released commits after it, and sees to it
	// that both last. Until then somebody is named who does not hold the partition any
	// more, and will say so when asked, or is no more.
	needNotLast = "SET LOCAL synchronous_commit = off"
)

const rowColumns = `SELECT partition, epoch, coalesce(holder, ''), coalesce(holder_start, 0), coalesce(holder_session, 0), released
	FROM ident_partitions`

// Release marks the partitions of these leases as free, but for those whose
// lease is over. What was said to be delivered is removed with it, so that the
// next holder does not find it. It takes 5 s at the most, and may be repeated
// after an error.
func (s *Store) Release(ctx context.Context, leases []partition.Lease) error {
	e := ending{store: s}
	for _, l := range leases {
		e.release(l.Partition, l.Epoch)
	}
	if err := e.run(ctx); err != nil {
		return s.logged(ctx, "releasing partitions", err)
	}
	return nil
}

// HandOver ends leases under which nothing is done any more: it makes To the holder
// of the next one, or releases the partition where that is the zero member. It answers
// each, in their order: To is zero in those answers whose lease has ended otherwise.
// Where a transaction stands in the way, such as one of a holder that is frozen, all are
// released: whoever claims them has to wait for that one, and no other partition has to.
// What was said to be delivered is removed with it, so that the next holder does not
// find it. It takes 5 s at the most, and may be repeated after an error.
func (s *Store) HandOver(ctx context.Context, all []ownership.HandOver) ([]ownership.HandedOver, error) {
	e := ending{store: s}
	for _, h := range all {
		if h.To == (ownership.Member{}) {
			e.release(h.Partition, h.Epoch)
		} else {
			e.grant(h)
		}
	}
	err := e.run(ctx)
	if err != nil && postgres.Classify(err) == postgres.Contended && len(e.granted.partitions) > 0 {
		e = ending{store: s}
		for _, h := range all {
			e.release(h.Partition, h.Epoch)
		}
		err = e.run(ctx)
	}
	if err != nil {
		return nil, s.logged(ctx, "handing partitions over", err)
	}
	var answers []ownership.HandedOver
	for _, h := range all {
		answer := ownership.HandedOver{Partition: h.Partition, Epoch: h.Epoch}
		next := ownership.HeldLease{Lease: partition.Lease{Partition: h.Partition, Epoch: h.Epoch + 1}, Holder: h.To}
		if e.holds[next] {
			answer.To = h.To
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// An ending is leases that end in one transaction.
type ending struct {
	store    *Store
	released leases
	granted  leases
	to       members                      // whom they are granted to
	holds    map[ownership.HeldLease]bool // what those of granted are now
}

type leases struct {
	partitions []int
	epochs     []int64
}

func (l *leases) add(partition int, epoch int64) {
	l.partitions, l.epochs = append(l.partitions, partition), append(l.epochs, epoch)
}

// members are a parameter of several columns.
type members struct {
	names            []string
	starts, sessions []int64
}

func (m *members) add(who ownership.Member) {
	m.names = append(m.names, who.Name)
	m.starts = append(m.starts, who.Incarnation.Start)
	m.sessions = append(m.sessions, who.Incarnation.Session)
}

func (e *ending) release(partition int, epoch int64) { e.released.add(partition, epoch) }

func (e *ending) grant(h ownership.HandOver) {
	e.granted.add(h.Partition, h.Epoch)
	e.to.add(h.To)
}

// run tries until the leases have ended, or an outcome is unknown, or ctx is done. It
// tries once where locks are needed.
func (e *ending) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, epochTimeout)
	defer cancel()
	for {
		err := e.store.pool.Transact(ctx, e.try)
		if err == nil || postgres.Classify(err) != postgres.Contended || len(e.granted.partitions) > 0 || ctx.Err() != nil {
			return err
		}
	}
}

// try is one transaction of one round trip.
func (e *ending) try(ctx context.Context, conn *pgx.Conn) error {
	removal := e.store.outbox.removeAll()
	batch := new(pgx.Batch)
	batch.Queue("begin isolation level read committed")
	if len(removal.ids) > 0 {
		batch.Queue(deleteOutbox, removal.ids)
	}
	if len(e.released.partitions) > 0 {
		batch.Queue(releaseLeases, e.released.partitions, e.released.epochs)
	}
	if len(e.granted.partitions) > 0 {
		e.queueGrants(batch)
	} else {
		batch.Queue(needNotLast)
	}
	batch.Queue("commit")
	err := conn.SendBatch(ctx, batch).Close()
	removal.done(err)
	return err
}

// queueGrants takes the locks, as a claim does, makes the new leases, and reads what
// has become of them, be it in an earlier try.
func (e *ending) queueGrants(batch *pgx.Batch) {
	partitions := e.granted.partitions
	batch.Queue(claimLimits)
	batch.Queue(`SELECT pg_advisory_xact_lock($1, partition)
		FROM (SELECT partition FROM unnest($2::int[]) AS g (partition) ORDER BY partition OFFSET 0) AS g`, fenceClass, partitions)
	batch.Queue(grantLeases, partitions, e.granted.epochs, e.to.names, e.to.starts, e.to.sessions)
	batch.Queue(rowColumns+" WHERE partition = ANY($1::int[]) AND NOT released", partitions).Query(func(rows pgx.Rows) error {
		all, err := readRows(rows)
		e.holds = make(map[ownership.HeldLease]bool)
		for _, row := range all {
			e.holds[row.HeldLease] = true
		}
		return err
	})
}

// Survey returns the epoch table. A partition that nobody has held yet is
// released and has the zero member as its holder.
func (s *Store) Survey(ctx context.Context) ([]ownership.Row, error) {
	var all []ownership.Row
	err := s.pool.Retry(ctx, func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, rowColumns+" ORDER BY partition")
		if err != nil {
			return err
		}
		all, err = readRows(rows)
		return err
	})
	if err != nil {
		return nil, s.logged(ctx, "reading the epoch table", err)
	}
	return all, nil
}

func readRows(rows pgx.Rows) ([]ownership.Row, error) {
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (row ownership.Row, err error) {
		by := &row.Holder
		err = r.Scan(&row.Partition, &row.Epoch, &by.Name, &by.Incarnation.Start, &by.Incarnation.Session, &row.Released)
		return row, err
	})
}
