package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
)

const (
	// warmConnections is how many connections Warm prepares: as many as read and
	// write at the same time under a usual load.
	warmConnections = 4

	warmTimeout = 5 * time.Second
)

// Warm makes connections, and has the statements planned on them that it takes to
// take partitions over, to find a user and to change one. The first time on a
// connection these cost the database a hundred times as much as later: that is not
// to happen when the partitions' requests already wait. Warm changes nothing. Where
// it fails, which is logged, what it would have done happens later, as is needed. It
// takes 5 s at the most.
func (s *Store) Warm(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	if err := s.warm(limited); err != nil && ctx.Err() == nil {
		s.log.Warn("database connections not prepared", zap.Error(err))
	}
}

func (s *Store) warm(ctx context.Context) error {
	if _, err := s.Undelivered(ctx, []int{}, 0, 0, 1); err != nil {
		return err
	}
	if err := s.Release(ctx, []ownership.Lease{}); err != nil {
		return err
	}
	if err := s.transact(ctx, s.warmClaims); err != nil {
		return fmt.Errorf("claiming nothing: %w", err)
	}
	for range min(warmConnections, s.pool.Config().MaxConns) {
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			return fmt.Errorf("reaching the database: %w", err)
		}
		// All are held at once, so that each is another one. The first, which has
		// seen everything, is released last, and taken first.
		defer conn.Release()
		if err := s.warmWrites(ctx, conn.Conn()); err != nil {
			s.rollback(conn.Conn(), err)
			return fmt.Errorf("writing nothing: %w", err)
		}
	}
	return nil
}

// warmClaims claims no partition.
func (s *Store) warmClaims(ctx context.Context, conn *pgx.Conn) error {
	c := &claiming{store: s}
	if err := c.lock(ctx, conn); err != nil {
		return err
	}
	batch := new(pgx.Batch)
	c.queue(batch)
	batch.Queue("rollback")
	return conn.SendBatch(ctx, batch).Close()
}

// warmWrites finds, and patches, a user who cannot exist, in a partition that
// cannot: first as one who has to be read, then as one who is known.
func (s *Store) warmWrites(ctx context.Context, conn *pgx.Conn) error {
	nobody := new(int64)
	lookup := &actor.Lookup{UserID: nobody}
	if _, err := readFinds(ctx, conn, []*find{{lookup: lookup}}); err != nil {
		return err
	}

	lease := actor.Lease{Partition: -1, Epoch: -1}
	identity := uuid.New()
	write := &actor.Write{Operation: "patch", Identity: actor.Identity(identity)}
	g := &group{store: s, writes: []*pending{{write: write, lease: lease}}}
	if err := g.lock(ctx, conn); err != nil {
		return err
	}
	var nothing plan
	nothing.updatedUsers.ids = []int64{}
	nothing.requests.identities = []uuid.UUID{}
	nothing.notices.users = []int64{}
	if s.auditKeep > 0 {
		nothing.audit.users = []int64{}
	}
	removal := &removal{ids: []int64{}}
	batch := new(pgx.Batch)
	nothing.queue(batch, removal, "true")
	batch.Queue("rollback")
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}

	e := expectation{leases: []actor.Lease{lease}, identities: []uuid.UUID{identity}, users: []int64{*nobody}}
	for i := range e.versions {
		e.versions[i] = []uint32{0}
	}
	batch = new(pgx.Batch)
	g.queueLocks(batch)
	e.queue(batch, new(bool))
	nothing.queue(batch, removal, isSound)
	return conn.SendBatch(ctx, batch).Close()
}
