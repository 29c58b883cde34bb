package store

import (
	"context"
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/schema"
)

// MaintainLog runs the maintenance of the log once.
func (s *Store) MaintainLog(ctx context.Context) error { return s.changelog.Maintain(ctx) }

// WriteCursors notes what was notified.
func (s *Store) WriteCursors(ctx context.Context) error { return s.outbox.Write(ctx) }

// SetPatience changes how long writes are attempted again.
func SetPatience(o *Options, d time.Duration) { o.patience = d }

// ContendedAttempts returns how many attempts to commit failed because another
// transaction was in the way.
func ContendedAttempts(s *Store) int {
	var m dto.Metric
	if err := s.metrics.failures.WithLabelValues(postgres.Contended.String()).Write(&m); err != nil {
		panic(err)
	}
	return int(m.GetCounter().GetValue())
}

// MigrationSQL returns the statements that take the schema from version-1 to version.
func MigrationSQL(version int) string { return schema.SQL(version) }

// Planned returns the number of prepared statements of each idle connection.
func Planned(ctx context.Context, s *Store) (statements []int, err error) {
	for _, conn := range s.pool.AcquireAllIdle(ctx) {
		defer conn.Release()
		results, err := conn.Conn().PgConn().Exec(ctx, "SELECT count(*) FROM pg_prepared_statements").ReadAll()
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(string(results[0].Rows[0][0]))
		if err != nil {
			return nil, err
		}
		statements = append(statements, n)
	}
	return statements, nil
}

// OnEachIdle runs a statement on each idle connection.
func OnEachIdle(ctx context.Context, s *Store, sql string) error {
	for _, conn := range s.pool.AcquireAllIdle(ctx) {
		defer conn.Release()
		if _, err := conn.Conn().PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}
