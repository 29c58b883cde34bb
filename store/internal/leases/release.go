package leases

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/postgres"
)

const (
	// releaseLeases releases the leases of all sessions of a holder's run.
	releaseLeases = `UPDATE ident_partitions p SET released = true
		FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[]) AS l (partition, epoch, holder, start)
		WHERE p.partition = l.partition AND p.epoch = l.epoch AND p.holder = l.holder AND p.holder_start = l.start AND NOT p.released AND p.ended_at IS NULL`

	grantLeases = `UPDATE ident_partitions p
		SET epoch = p.epoch + 1, holder = l.name, holder_start = l.start, holder_session = l.session, claimed_at = now()
		FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[])
			AS l (partition, epoch, name, start, session, holder, holder_start, holder_session)
		WHERE p.partition = l.partition AND p.epoch = l.epoch AND NOT p.released AND p.ended_at IS NULL
			AND p.holder = l.holder AND p.holder_start = l.holder_start AND p.holder_session = l.holder_session`

	// notDurable allows the database to lose a transaction if it crashes soon. A release
	// may be lost: the claim that follows commits after it and makes both durable. Until
	// then the table names a holder that says, when asked, that it does not hold the
	// partition, or that is gone.
	notDurable = "SET LOCAL synchronous_commit = off"
)

// Release marks the partitions of these leases as free, unless the lease is lost. It also
// notes which notifications are confirmed, so that the next holder does not send them again.
// Release takes 5 s at most and may be repeated after an error.
func (t *Table) Release(ctx context.Context, released []partition.Lease) error {
	e := leaseEndTx{table: t}
	for _, l := range slices.SortedFunc(slices.Values(released), func(a, b partition.Lease) int { return a.Partition - b.Partition }) {
		e.released.add(l) // in the order in which a flush of the outbox locks the rows
	}
	if err := e.run(ctx); err != nil {
		return postgres.LogError(ctx, t.log, "releasing partitions", err)
	}
	return nil
}

// HandOver ends leases under which nothing is written any more. Each goes to its member
// To under the next epoch, or is released if To is the zero member. HandOver returns
// a result for each hand-over, in their order. Its To is zero if the lease has ended in
// another way.
//
// If another transaction is in the way, such as one of a frozen holder, all leases are
// released: the member that claims such a partition waits for that transaction, and the
// other partitions do not.
//
// HandOver also notes which notifications are confirmed, so that the next holder does not
// send them again. It takes 5 s at most and may be repeated after an error.
func (t *Table) HandOver(ctx context.Context, all []ownership.HandOver) ([]ownership.HandedOver, error) {
	e := leaseEndTx{table: t}
	for _, h := range all {
		if h.To == (ownership.Member{}) || h.Epoch >= changelog.MaxEpoch {
			e.released.add(h.Lease)
		} else {
			e.grant(h)
		}
	}
	err := e.run(ctx)
	if err != nil && postgres.Classify(err) == postgres.Contended && len(e.granted.partitions) > 0 {
		e = leaseEndTx{table: t}
		for _, h := range all {
			e.released.add(h.Lease)
		}
		err = e.run(ctx)
	}
	if err != nil {
		return nil, postgres.LogError(ctx, t.log, "handing partitions over", err)
	}
	var answers []ownership.HandedOver
	for _, h := range all {
		answer := ownership.HandedOver{Partition: h.Partition, Epoch: h.Epoch}
		next := partition.Lease{Partition: h.Partition, Epoch: h.Epoch + 1, Holder: h.To}
		if e.held[next] {
			t.seen.Epoch(next.Partition, next.Epoch)
			answer.To = h.To
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// A leaseEndTx releases and grants the leases that end in one transaction.
type leaseEndTx struct {
	table    *Table
	released leaseColumns
	granted  leaseColumns
	to       memberColumns            // the next holders of granted
	held     map[partition.Lease]bool // leases of the granted partitions after the transaction
}

func (e *leaseEndTx) grant(h ownership.HandOver) {
	e.granted.add(h.Lease)
	e.to.add(h.To)
}

// run repeats the transaction until the leases have ended, the outcome is unknown, or ctx
// is done. A transaction that needs locks is tried once.
func (e *leaseEndTx) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	for {
		err := e.table.pool.TransactReserved(ctx, e.try)
		if err == nil || postgres.Classify(err) != postgres.Contended || len(e.granted.partitions) > 0 || ctx.Err() != nil {
			return err
		}
	}
}

// try runs the transaction, in one round trip.
func (e *leaseEndTx) try(ctx context.Context, conn *pgx.Conn) error {
	flush := e.table.outbox.FlushPartitions(slices.Concat(e.released.partitions, e.granted.partitions))
	batch := new(pgx.Batch)
	batch.Queue("begin isolation level read committed")
	flush.Queue(batch)
	if len(e.released.partitions) > 0 {
		by := &e.released.by
		batch.Queue(releaseLeases, e.released.partitions, e.released.epochs, by.names, by.starts)
	}
	if len(e.granted.partitions) > 0 {
		e.queueGrants(batch)
	} else {
		batch.Queue(notDurable)
	}
	batch.Queue("commit")
	err := conn.SendBatch(ctx, batch).Close()
	flush.Done(err)
	return err
}

// queueGrants takes the locks as a claim does, makes the next leases, and reads which
// leases there are then: an earlier attempt may have made them.
func (e *leaseEndTx) queueGrants(batch *pgx.Batch) {
	partitions := e.granted.partitions
	batch.Queue(lockLimits)
	batch.Queue(`SELECT pg_advisory_xact_lock($1, partition)
		FROM (SELECT partition FROM unnest($2::int[]) AS g (partition) ORDER BY partition OFFSET 0) AS g`, LockClass, partitions)
	by := &e.granted.by
	batch.Queue(grantLeases, partitions, e.granted.epochs, e.to.names, e.to.starts, e.to.sessions, by.names, by.starts, by.sessions)
	batch.Queue(rowColumns+" AND partition = ANY($1::int[]) AND NOT released", partitions).Query(func(rows pgx.Rows) error {
		all, err := collectRows(rows)
		e.held = make(map[partition.Lease]bool)
		for _, row := range all {
			e.held[row.Lease] = true
		}
		return err
	})
	postgres.QueueWAL(batch) // if an earlier attempt has made the leases, this one writes nothing else
}
