package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/store/internal/postgres"
)

// NextStart returns a number that is greater than each one that it has returned
// before, to whomever.
func (s *Store) NextStart(ctx context.Context) (start int64, err error) {
	err = s.pool.Retry(ctx, func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, "SELECT nextval('ident_starts')").Scan(&start)
	})
	if err != nil {
		return 0, s.logged(ctx, "drawing the number of a start", err)
	}
	return start, nil
}

// A ParametersError says that an instance is set up for another cluster than
// the one in the database.
type ParametersError struct {
	Theirs ownership.Parameters // in the database
	Ours   ownership.Parameters
}

func (e *ParametersError) Error() string {
	var found []string
	if e.Theirs.Partitions != e.Ours.Partitions {
		found = append(found, fmt.Sprintf("has %d partitions, and the settings say %d", e.Theirs.Partitions, e.Ours.Partitions))
	}
	if e.Theirs.QueueType != e.Ours.QueueType {
		found = append(found, fmt.Sprintf("has %s queues, and the settings say %s", e.Theirs.QueueType, e.Ours.QueueType))
	}
	if e.Theirs.Table != e.Ours.Table {
		found = append(found, fmt.Sprintf("assigns partitions by table version %d, and this program by %d", e.Theirs.Table, e.Ours.Table))
	}
	return "the cluster in this database " + strings.Join(found, "; it ")
}

// EnsureParameters makes the parameters those of the cluster in this database, if it has
// none yet, and prepares the epoch table. Where it has others, the error is a
// *DisagreementError.
func (s *Store) EnsureParameters(ctx context.Context, ours ownership.Parameters) error {
	var theirs ownership.Parameters
	err := s.pool.Retry(ctx, func(ctx context.Context) error {
		// The second statement sees what the first one has waited for.
		batch := new(pgx.Batch)
		batch.Queue(`WITH first AS (
				INSERT INTO ident_cluster (partitions, queue_type, table_version) VALUES ($1, $2, $3)
				ON CONFLICT DO NOTHING RETURNING partitions)
			INSERT INTO ident_partitions (partition, epoch, released)
			SELECT p, 0, true FROM first, generate_series(0, first.partitions - 1) AS p
			ON CONFLICT DO NOTHING`, ours.Partitions, ours.QueueType, ours.Table)
		batch.Queue("SELECT partitions, queue_type, table_version FROM ident_cluster").QueryRow(func(row pgx.Row) error {
			return row.Scan(&theirs.Partitions, &theirs.QueueType, &theirs.Table)
		})
		return s.pool.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return s.logged(ctx, "agreeing on the cluster's parameters", err)
	}
	if theirs != ours {
		return &ParametersError{Theirs: theirs, Ours: ours}
	}
	return nil
}

// rebindLock is the key of the advisory lock on binding the partitions' queues
// anew: "idenx" in ASCII.
const rebindLock = 0x6964656e78

// TryRebind calls rebind if the last call that succeeded, of any instance, is at
// least this long ago, and no other instance is at it; else it returns at once.
// It says whether rebind was called and succeeded. EnsureParameters must have been called
// before. A connection of the pool is held during rebind, until ctx is done at
// most.
func (s *Store) TryRebind(ctx context.Context, least time.Duration, rebind func(ctx context.Context) error) (done bool, err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("reaching the database: %w", err)
	}
	defer conn.Release()
	unlock, err := postgres.TryLock(ctx, conn.Conn(), rebindLock, s.log)
	if err != nil {
		return false, fmt.Errorf("locking the binding of queues: %w", err)
	}
	if unlock == nil {
		return false, nil
	}
	defer unlock()
	var due bool
	if err := conn.QueryRow(ctx, "SELECT coalesce(rebound_at <= now() - $1::interval, true) FROM ident_cluster", least).Scan(&due); err != nil {
		return false, fmt.Errorf("reading when queues were last bound: %w", err)
	}
	if !due {
		return false, nil
	}
	if err := rebind(ctx); err != nil {
		return false, err
	}
	if _, err := conn.Exec(ctx, "UPDATE ident_cluster SET rebound_at = now()"); err != nil {
		return false, fmt.Errorf("recording that queues were bound: %w", err)
	}
	return true, nil
}
