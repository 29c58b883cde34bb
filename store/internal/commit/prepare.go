package commit

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/commitstate"
	"github.com/glotpod/ident/store/internal/userrows"
)

// Prepare has the server plan the statements of commits on a connection. It patches a user
// that cannot exist in a partition that cannot exist: first with reading the user, then as
// if the user were cached.
func (c *Committer) Prepare(ctx context.Context, conn *pgx.Conn) error {
	lease := partition.Lease{Partition: -1, Epoch: -1}
	write := &actor.Write{Operation: "patch", RequestID: actor.RequestID(uuid.New())}
	tables, err := c.days.Tables(ctx)
	if err != nil {
		return err
	}
	p := newPending(ctx, lease, []*actor.Write{write}, c.patience)
	p.turn = &turn{lease: lease, unsure: true}
	a := c.newAttempt([]*pending{p}, commitstate.LeftOut, tables)
	if err := a.lock(ctx, conn); err != nil {
		return err
	}
	queue := func(batch *pgx.Batch, condition string) {
		userrows.QueueUpdateNone(batch, condition)
		changelog.QueueNone(batch, tables, condition)
	}
	batch := new(pgx.Batch)
	queue(batch, "true")
	batch.Queue("commit")
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}

	required := preconditions{leases: []partition.Lease{lease}, requests: uuids{uuidOf(write.RequestID)}, users: []int64{write.UserID}}
	for i := range required.versions {
		required.versions[i] = []uint32{0}
	}
	batch = new(pgx.Batch)
	a.queueLocks(batch)
	required.queue(batch, tables, new(bool))
	queue(batch, preconditionsHold)
	return conn.SendBatch(ctx, batch).Close()
}
