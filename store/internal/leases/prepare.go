package leases

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/outbox"
)

// Prepare has a connection prepare the statements of Claim, HandOver, Release and TakeOver, except
// that on the outbox. It claims, releases and grants nothing. After an error a transaction
// may be open.
func (t *Table) Prepare(ctx context.Context, conn *pgx.Conn) error {
	claim := &claimTx{table: t}
	if err := claim.lock(ctx, conn); err != nil {
		return err
	}
	batch := new(pgx.Batch)
	claim.queueUpdate(batch)
	batch.Queue("rollback")
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	release, grant := leaseEndTx{table: t}, leaseEndTx{table: t}
	release.released.add(partition.Lease{Partition: -1, Epoch: -1})
	grant.grant(ownership.HandOver{Lease: partition.Lease{Partition: -1, Epoch: -1}})
	return errors.Join(release.try(ctx, conn), grant.try(ctx, conn))
}

// PrepareReserved opens the connection that is reserved for leases, and prepares it.
func (t *Table) PrepareReserved(ctx context.Context) error {
	tables, err := t.days.Tables(ctx)
	if err != nil {
		return err
	}
	return t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		batch := new(pgx.Batch)
		QueueHoldsNone(batch, tables)
		outbox.QueueNone(batch)
		return errors.Join(t.Prepare(ctx, conn), conn.SendBatch(ctx, batch).Close())
	})
}

// QueueHoldsNone adds the statements of TakeOver and Ended on leases, which find none here, to a
// batch that prepares statements.
func QueueHoldsNone(batch *pgx.Batch, tables changelog.Tables) {
	queueHeldLeases(batch, tables, ownership.Member{}, []int{}, []int64{})
	batch.Queue(endedLeases, "", 0, 0, []int{}, []int64{})
	batch.Queue(heldBack, []int{})
}
