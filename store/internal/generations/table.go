package generations

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/postgres"
)

const (
	// schemaVersion is that of the migration which made generations. oldestBefore is the oldest
	// program that works with it as long as no repartition has begun.
	schemaVersion = 17
	oldestBefore  = 14

	// MaxNumbers bounds the numbers of partitions over all generations: each is a part of the
	// positions of the operation changes, and a row that is read as a whole.
	MaxNumbers = 4096

	// attemptFor is how long another instance waits for the one that carries a repartition on.
	attemptFor = 2 * time.Second
)

var (
	// ErrUnderWay means that a repartition is under way.
	ErrUnderWay = errors.New("a repartition is under way")

	// ErrNumbers means that there are no numbers left for another generation.
	ErrNumbers = fmt.Errorf("a cluster can have %d partitions over all its repartitions", MaxNumbers)
)

// A Table records generations and repartitions. It is safe for concurrent use.
type Table struct {
	pool *postgres.Pool
	log  *zap.Logger
}

// New returns the table of a database.
func New(pool *postgres.Pool, log *zap.Logger) *Table { return &Table{pool, log} }

const look = `SELECT c.first, c.partitions, c.queue_type, coalesce(r.number, 0), coalesce(r.phase, ''),
		coalesce(r.from_first, 0), coalesce(r.from_partitions, 0), coalesce(r.from_queue_type, ''),
		coalesce(r.to_first, 0), coalesce(r.to_partitions, 0), coalesce(r.to_queue_type, ''),
		coalesce(r.attempt, 0), coalesce(r.mover, ''), coalesce(r.moved, 0), coalesce(r.cleared, 0), coalesce(r.note, ''),
		extract(epoch FROM now() - coalesce(r.begun_at, now()))::float8, coalesce(r.clear_at <= now(), false)
	FROM ident_cluster AS c LEFT JOIN LATERAL (SELECT * FROM ident_repartition ORDER BY number DESC LIMIT 1) AS r ON true`

// Look returns the cluster's generation, and the latest repartition, nil if there was none. It is one
// attempt in one round trip.
func (t *Table) Look(ctx context.Context) (g partition.Generation, r *partition.Repartition, err error) {
	r = new(partition.Repartition)
	var age float64
	err = t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, look).Scan(&g.First, &g.Partitions, &g.QueueType, &r.Number, &r.Phase,
			&r.From.First, &r.From.Partitions, &r.From.QueueType, &r.To.First, &r.To.Partitions, &r.To.QueueType,
			&r.Attempt, &r.Mover, &r.Moved, &r.Cleared, &r.Note, &age, &r.MayClear)
	})
	if err != nil {
		return partition.Generation{}, nil, fmt.Errorf("reading the generation of the partitions: %w", err)
	}
	r.Age = time.Duration(age * float64(time.Second))
	if r.Number == 0 {
		r = nil
	}
	return g, r, nil
}

// HeldBack returns of how many users notifications are held back. They keep a generation from ending.
func (t *Table) HeldBack(ctx context.Context) (users int, err error) {
	err = t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT count(*) FROM ident_held_back").Scan(&users)
	})
	if err != nil {
		return 0, fmt.Errorf("counting the users whose notifications are held back: %w", err)
	}
	return users, nil
}

// exec executes a statement about a repartition, which must change one row of it.
func (t *Table) exec(ctx context.Context, doing, sql string, args ...any) error {
	err := t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, sql, args...)
		if err == nil && tag.RowsAffected() == 0 {
			return partition.ErrSuperseded
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// transact runs a transaction about a repartition.
func (t *Table) transact(ctx context.Context, doing string, run func(ctx context.Context, tx pgx.Tx) error) error {
	err := t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error { return run(ctx, tx) })
	})
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
