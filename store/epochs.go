package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cluster/ownership"
)

// epochTimeout bounds a change to the epoch table, all tries included.
const epochTimeout = 5 * time.Second

const releaseLeases = `UPDATE ident_partitions p SET released = true
	FROM unnest($1::int[], $2::bigint[]) AS l (partition, epoch)
	WHERE p.partition = l.partition AND p.epoch = l.epoch AND NOT p.released`

const rowColumns = `SELECT partition, epoch, coalesce(holder, ''), coalesce(holder_start, 0), coalesce(holder_session, 0), released
	FROM ident_partitions`

// Release marks the partitions of these leases as free, but for those whose
// lease is over. What was said to be delivered is removed with it, so that the
// next holder does not find it. It takes 5 s at the most, and may be repeated
// after an error.
func (s *Store) Release(ctx context.Context, leases []ownership.Lease) error {
	limited, cancel := context.WithTimeout(ctx, epochTimeout)
	defer cancel()
	var partitions []int
	var epochs []int64
	for _, l := range leases {
		partitions = append(partitions, l.Partition)
		epochs = append(epochs, l.Epoch)
	}
	for {
		err := s.transact(limited, func(ctx context.Context, conn *pgx.Conn) error {
			removal := s.outbox.removeAll()
			batch := new(pgx.Batch)
			batch.Queue("begin isolation level read committed")
			if len(removal.ids) > 0 {
				batch.Queue(deleteOutbox, removal.ids)
			}
			batch.Queue(releaseLeases, partitions, epochs)
			batch.Queue("commit")
			err := conn.SendBatch(ctx, batch).Close()
			removal.done(err)
			return err
		})
		if err == nil {
			return nil
		}
		if classify(err) != contended || limited.Err() != nil {
			return s.logged(ctx, "releasing partitions", err)
		}
	}
}

// Survey returns the epoch table. A partition that nobody has held yet is
// released and has the zero member as its holder.
func (s *Store) Survey(ctx context.Context) ([]ownership.Row, error) {
	var all []ownership.Row
	err := s.retry(ctx, func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, rowColumns+" ORDER BY partition")
		if err != nil {
			return err
		}
		all, err = readRows(rows)
		return err
	})
	if err != nil {
		return nil, s.logged(ctx, "reading the epoch table", err)
	}
	return all, nil
}

func readRows(rows pgx.Rows) ([]ownership.Row, error) {
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (row ownership.Row, err error) {
		by := &row.Holder
		err = r.Scan(&row.Partition, &row.Epoch, &by.Name, &by.Incarnation.Start, &by.Incarnation.Session, &row.Released)
		return row, err
	})
}

// transact has do begin and end a transaction on a connection of the pool, and
// rolls it back where do fails.
func (s *Store) transact(ctx context.Context, do func(ctx context.Context, conn *pgx.Conn) error) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("reaching the database: %w", err)
	}
	defer conn.Release()
	if err := do(ctx, conn.Conn()); err != nil {
		s.rollback(conn.Conn(), err)
		return err
	}
	return nil
}
