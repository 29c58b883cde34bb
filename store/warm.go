package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

const (
	// warmConnections is how many connections PrepareConnections prepares: as many as read and
	// write at the same time under a usual load.
	warmConnections = 4

	warmTimeout = 5 * time.Second
)

// PrepareConnections makes connections, and has the statements planned on them that it takes to
// take partitions over and hand them over, to find users by their ids, and to patch
// their names, emails and pictures. The first time on a connection these cost the
// database a hundred times as much as later: that is not to happen when the requests
// of a partition already wait. It is for connections that are new: those that are
// made later, for want of one or in the place of one that was lost or has become old,
// get there by themselves.
//
// PrepareConnections changes nothing. Where it fails, which is logged, there is nothing else that
// fails. It takes about 5 s at the most.
func (s *Store) PrepareConnections(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	if err := s.warm(limited); err != nil && ctx.Err() == nil {
		s.log.Warn("database connections not prepared", zap.Error(err))
	}
}

func (s *Store) warm(ctx context.Context) error {
	for range min(warmConnections, s.pool.Config().MaxConns) {
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			return fmt.Errorf("reaching the database: %w", err)
		}
		defer conn.Release() // all are held at once, so that each is another one
		for _, warm := range []func(context.Context, *pgx.Conn) error{s.warmLeases, s.warmReads, s.warmWrites} {
			if err := warm(ctx, conn.Conn()); err != nil {
				s.pool.Rollback(conn.Conn(), err)
				return fmt.Errorf("planning statements: %w", err)
			}
		}
	}
	return nil
}

// warmLeases claims nothing, releases nothing, and grants nothing.
func (s *Store) warmLeases(ctx context.Context, conn *pgx.Conn) error {
	c := &claiming{store: s}
	if err := c.lock(ctx, conn); err != nil {
		return err
	}
	batch := new(pgx.Batch)
	c.queue(batch)
	batch.Queue("rollback")
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	release, grant := ending{store: s}, ending{store: s}
	release.release(-1, -1)
	grant.grant(ownership.HandOver{Partition: -1, Epoch: -1})
	return errors.Join(release.try(ctx, conn), grant.try(ctx, conn))
}

// warmReads finds nobody, and in the outbox nothing.
func (s *Store) warmReads(ctx context.Context, conn *pgx.Conn) error {
	batch := new(pgx.Batch)
	batch.Queue(findByID, []int64{})
	batch.Queue(heldLeases, "", int64(0), int64(0), []int{}, []int64{})
	batch.Queue(outboxPage(outboxOfPartitions), int64(math.MaxInt64), time.Duration(0), 1, maxPageBytes, []int{})
	return conn.SendBatch(ctx, batch).Close()
}

// warmWrites patches a user who cannot exist, in a partition that cannot: first as one
// who has to be read, then as one who is known.
func (s *Store) warmWrites(ctx context.Context, conn *pgx.Conn) error {
	lease := partition.Lease{Partition: -1, Epoch: -1}
	identity := actor.RequestID(uuid.New())
	write := &actor.Write{Operation: "patch", RequestID: identity}
	g := &group{store: s, writes: []*pending{{writes: []*actor.Write{write}, identities: []actor.RequestID{identity}, lease: lease}}}
	if err := g.lock(ctx, conn); err != nil {
		return err
	}
	var nothing plan
	nothing.updatedUsers.ids = []int64{}
	nothing.requests.identities = uuids{}
	nothing.notices.users = []int64{}
	if s.auditKeep > 0 {
		nothing.audit.users = []int64{}
	}
	removal := &removal{ids: []int64{}}
	batch := new(pgx.Batch)
	nothing.queue(batch, removal, "true")
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
	nothing.queue(batch, removal, isSound)
	return conn.SendBatch(ctx, batch).Close()
}
