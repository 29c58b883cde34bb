package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/audit"
	"github.com/glotpod/ident/store/internal/leases"
	"github.com/glotpod/ident/store/internal/outbox"
)

const (
	// maxPrepared bounds the connections that PrepareConnections prepares: as many as read
	// and write at the same time under a usual load.
	maxPrepared = 4

	prepareTimeout = 5 * time.Second
)

// PrepareConnections opens connections and has the server plan the statements of a
// take-over, a hand-over, look-ups by id, and patches of name, email and picture. On a new
// connection their first execution costs the database a hundred times as much as later
// ones. That must not happen when requests of a partition already wait. Connections that
// are opened later prepare their statements as they need them.
//
// PrepareConnections changes nothing in the database. It logs a failure, which has no other
// consequence. It takes about 5 s at most.
func (s *Store) PrepareConnections(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	if err := s.prepareConnections(limited); err != nil && ctx.Err() == nil {
		s.log.Warn("database connections not prepared", zap.Error(err))
	}
}

func (s *Store) prepareConnections(ctx context.Context) error {
	for range min(maxPrepared, s.pool.Config().MaxConns) {
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			return fmt.Errorf("reaching the database: %w", err)
		}
		defer conn.Release() // at the end, so that each is another connection
		for _, prepare := range []func(context.Context, *pgx.Conn) error{s.leases.Prepare, prepareReads, s.prepareWrites} {
			if err := prepare(ctx, conn.Conn()); err != nil {
				s.pool.Rollback(conn.Conn(), err)
				return fmt.Errorf("planning statements: %w", err)
			}
		}
	}
	return nil
}

// prepareReads finds no user, no lease and no notification.
func prepareReads(ctx context.Context, conn *pgx.Conn) error {
	batch := new(pgx.Batch)
	batch.Queue(findByID, []int64{})
	leases.QueueHoldsNone(batch)
	outbox.QueueNoPage(batch)
	return conn.SendBatch(ctx, batch).Close()
}

// prepareWrites patches a user that cannot exist in a partition that cannot exist: first
// with reading the user, then as if the user were cached.
func (s *Store) prepareWrites(ctx context.Context, conn *pgx.Conn) error {
	lease := partition.Lease{Partition: -1, Epoch: -1}
	identity := actor.RequestID(uuid.New())
	write := &actor.Write{Operation: "patch", RequestID: identity}
	g := &group{store: s, writes: []*pending{{writes: []*actor.Write{write}, identities: []actor.RequestID{identity}, lease: lease}}}
	if err := g.lock(ctx, conn); err != nil {
		return err
	}
	var empty plan
	empty.updatedUsers.ids = []int64{}
	empty.requests.identities = uuids{}
	empty.notices.users = []int64{}
	queue := func(batch *pgx.Batch, condition string) {
		empty.queue(batch, new(outbox.Removal), condition)
		if s.audit != nil {
			audit.QueueNone(batch, condition)
		}
		outbox.QueueDeleteNone(batch)
	}
	batch := new(pgx.Batch)
	queue(batch, "true")
	batch.Queue("commit")
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}

	e := expectation{leases: []partition.Lease{lease}, identities: uuids{uuidOf(identity)}, users: []int64{write.UserID}}
	for i := range e.versions {
		e.versions[i] = []uint32{0}
	}
	batch = new(pgx.Batch)
	g.queueLocks(batch)
	e.queue(batch, new(bool))
	queue(batch, isSound)
	return conn.SendBatch(ctx, batch).Close()
}
