package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

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
		for _, prepare := range []func(context.Context, *pgx.Conn) error{s.leases.Prepare, prepareReads, s.committer.Prepare} {
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
