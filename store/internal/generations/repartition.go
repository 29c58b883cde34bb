package generations

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/postgres"
)

// nextFirst returns a query for the number after the last one that a partition ever had. Numbers of a
// repartition that was given up are used again, unless it was for another type: queues of that type may be there.
// queueType is a parameter of the query.
func nextFirst(queueType string) string {
	return `SELECT greatest((SELECT first + partitions FROM ident_cluster), (SELECT max(partition) + 1 FROM ident_partitions),
		(SELECT max(to_first + to_partitions) FROM ident_repartition WHERE phase <> 'given up' OR to_queue_type <> ` + queueType + `))`
}

// Next returns the generation that a repartition would begin. The error is [ErrNumbers] if there are not
// enough numbers.
func (t *Table) Next(ctx context.Context, partitions int, queueType string) (next partition.Generation, err error) {
	next = partition.Generation{Partitions: partitions, QueueType: queueType}
	err = t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, nextFirst("$1"), queueType).Scan(&next.First)
	})
	if err == nil && next.End() > MaxNumbers {
		err = ErrNumbers
	}
	if err != nil {
		return partition.Generation{}, fmt.Errorf("finding numbers for other partitions: %w", err)
	}
	return next, nil
}

// Begin begins a repartition into the generation that Next has returned. From then on, no older program can
// be started. The error is [ErrUnderWay] if another repartition is under way or was begun since.
func (t *Table) Begin(ctx context.Context, next partition.Generation) error {
	return t.transact(ctx, "beginning a repartition", func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO ident_repartition (number, phase, from_first, from_partitions, from_queue_type, to_first, to_partitions, to_queue_type)
			SELECT (SELECT coalesce(max(number), 0) + 1 FROM ident_repartition), 'stopping', c.first, c.partitions, c.queue_type, $1, $2, $3
			FROM (SELECT * FROM ident_cluster FOR UPDATE) AS c
			WHERE NOT EXISTS (SELECT FROM ident_repartition WHERE phase IN ('stopping', 'moving', 'clearing')) AND $1 = (`+nextFirst("$4")+`)`,
			next.First, next.Partitions, next.QueueType, next.QueueType)
		if err == nil && tag.RowsAffected() == 0 {
			return ErrUnderWay
		}
		if err == nil {
			_, err = tx.Exec(ctx, "UPDATE ident_migrations SET oldest = version WHERE version = $1", schemaVersion)
		}
		return err
	})
}

// GiveUp gives a repartition up, whatever attempt is under way, unless it has ended the old generation.
func (t *Table) GiveUp(ctx context.Context, number int, why string) error {
	return t.transact(ctx, "giving the repartition up", func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "UPDATE ident_repartition SET phase = 'given up', note = $2, ended_at = now() WHERE number = $1 AND phase = 'stopping'", number, why)
		if err == nil && tag.RowsAffected() == 0 {
			return partition.ErrSuperseded
		}
		if err == nil {
			_, err = tx.Exec(ctx, "UPDATE ident_migrations SET oldest = $2 WHERE version = $1 AND (SELECT first = 0 FROM ident_cluster)", schemaVersion, oldestBefore)
		}
		return err
	})
}

// Start begins an attempt to carry a repartition on, unless another instance does so: then ok is false.
func (t *Table) Start(ctx context.Context, number int, mover string) (attempt int64, ok bool, err error) {
	err = t.pool.TransactReserved(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `UPDATE ident_repartition SET attempt = attempt + 1, mover = $2, mover_until = now() + $3::interval
			WHERE number = $1 AND phase IN ('stopping', 'moving', 'clearing') AND mover_until <= now() RETURNING attempt`,
			number, mover, attemptFor).Scan(&attempt)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("beginning to carry the repartition on: %w", err)
	}
	return attempt, true, nil
}

// Renew keeps other instances from carrying the repartition on for 2 s. It must be called more often.
func (t *Table) Renew(ctx context.Context, a partition.Attempt) error {
	return t.exec(ctx, "renewing the attempt", `UPDATE ident_repartition
		SET mover_until = now() + $3::interval, moved = moved + $4, cleared = greatest(cleared, $5), note = $6
		WHERE number = $1 AND attempt = $2 AND phase IN ('stopping', 'moving', 'clearing')`,
		a.Number, a.Attempt, attemptFor, a.Moved, a.Cleared, a.Note)
}

// Yield ends an attempt, so that another one may begin at once.
func (t *Table) Yield(ctx context.Context, a partition.Attempt) error {
	return t.exec(ctx, "ending the attempt", `UPDATE ident_repartition
		SET mover_until = now(), moved = moved + $3, cleared = greatest(cleared, $4), note = CASE WHEN $5 = '' THEN note ELSE $5 END
		WHERE number = $1 AND attempt = $2 AND phase IN ('stopping', 'moving', 'clearing')`, a.Number, a.Attempt, a.Moved, a.Cleared, a.Note)
}

// inPhase selects a repartition that an attempt carries on, and locks it.
const inPhase = "SELECT to_first, to_partitions, to_queue_type FROM ident_repartition WHERE number = $1 AND attempt = $2 AND phase = $3 FOR UPDATE"

func lockPhase(ctx context.Context, tx pgx.Tx, a partition.Attempt, phase partition.Phase) (to partition.Generation, err error) {
	err = tx.QueryRow(ctx, inPhase, a.Number, a.Attempt, string(phase)).Scan(&to.First, &to.Partitions, &to.QueueType)
	if errors.Is(err, pgx.ErrNoRows) {
		err = partition.ErrSuperseded
	}
	return to, err
}

// notNotified counts the partitions with changes that were not notified, and the users whose
// notifications are held back.
const notNotified = `SELECT
		(SELECT count(*) FROM unnest($1::int[]) AS u (partition) JOIN ident_partitions AS p USING (partition)
			WHERE EXISTS (SELECT FROM ident_log AS l WHERE l.partition = p.partition AND l.position > p.notified)),
		(SELECT count(*) FROM ident_held_back WHERE partition = ANY($1::int[]))`

// EndGeneration ends the old generation. The mover must hold these leases, which are those of all its
// partitions. The repartition can not be given up any more.
// The error is partition.ErrSuperseded, partition.ErrLeases or a *partition.NotNotifiedError, if it is none of the database.
// The old queues may be deleted after keep.
func (t *Table) EndGeneration(ctx context.Context, a partition.Attempt, held []partition.Lease, keep time.Duration) error {
	partitions, epochs := make([]int, len(held)), make([]int64, len(held))
	var names []string
	var starts, sessions []int64
	for i, l := range held {
		partitions[i], epochs[i] = l.Partition, l.Epoch
		names, starts, sessions = append(names, l.Holder.Name), append(starts, l.Holder.Incarnation.Start), append(sessions, l.Holder.Incarnation.Session)
	}
	return t.transact(ctx, "ending the old generation", func(ctx context.Context, tx pgx.Tx) error {
		if _, err := lockPhase(ctx, tx, a, partition.Stopping); err != nil {
			return err
		}
		// With the greatest epoch, an older program cannot claim the partition either.
		tag, err := tx.Exec(ctx, `UPDATE ident_partitions AS p SET ended_at = now(), epoch = $6
			FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[]) AS l (partition, epoch, name, start, session)
			WHERE p.partition = l.partition AND p.epoch = l.epoch AND p.holder = l.name AND p.holder_start = l.start AND p.holder_session = l.session
				AND NOT p.released AND p.ended_at IS NULL`, partitions, epochs, names, starts, sessions, int64(changelog.MaxEpoch))
		if err != nil {
			return err
		}
		var left int
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM ident_partitions WHERE ended_at IS NULL").Scan(&left); err != nil {
			return err
		}
		if left > 0 || int(tag.RowsAffected()) != len(held) {
			return partition.ErrLeases
		}
		var behind partition.NotNotifiedError
		if err := tx.QueryRow(ctx, notNotified, partitions).Scan(&behind.Partitions, &behind.Users); err != nil {
			return err
		}
		if behind != (partition.NotNotifiedError{}) {
			return &behind
		}
		_, err = tx.Exec(ctx, `UPDATE ident_repartition SET phase = 'moving', note = '', clear_at = now() + $3::interval
			WHERE number = $1 AND attempt = $2`, a.Number, a.Attempt, keep)
		return err
	})
}

// BeginGeneration begins the new generation, after all requests in the queues of the old one were moved.
func (t *Table) BeginGeneration(ctx context.Context, a partition.Attempt) error {
	return t.transact(ctx, "beginning the new generation", func(ctx context.Context, tx pgx.Tx) error {
		to, err := lockPhase(ctx, tx, a, partition.Moving)
		if err != nil {
			return err
		}
		batch := new(pgx.Batch)
		// The numbers of repartitions that were given up: there is a row for each number.
		batch.Queue(`INSERT INTO ident_partitions (partition, epoch, released, first, ended_at)
			SELECT p, $2, false, last.partition + 1, now() FROM (SELECT max(partition) AS partition FROM ident_partitions) AS last,
				generate_series(last.partition + 1, $1::int - 1) AS p`, to.First, int64(changelog.MaxEpoch))
		batch.Queue("INSERT INTO ident_partitions (partition, epoch, released, first) SELECT p, 0, true, $1::int FROM generate_series($1::int, $1::int + $2::int - 1) AS p", to.First, to.Partitions)
		batch.Queue("UPDATE ident_cluster SET first = $1, partitions = $2, queue_type = $3, rebound_at = now()", to.First, to.Partitions, to.QueueType)
		batch.Queue("UPDATE ident_repartition SET phase = 'clearing', moved = moved + $3, note = $4 WHERE number = $1 AND attempt = $2", a.Number, a.Attempt, a.Moved, a.Note)
		postgres.QueueWAL(batch)
		return tx.SendBatch(ctx, batch).Close()
	})
}

// Finish ends a repartition, after the old queues were deleted.
func (t *Table) Finish(ctx context.Context, a partition.Attempt) error {
	return t.exec(ctx, "ending the repartition", `UPDATE ident_repartition SET phase = 'done', moved = moved + $3, cleared = from_partitions, note = '', ended_at = now()
		WHERE number = $1 AND attempt = $2 AND phase = 'clearing'`, a.Number, a.Attempt, a.Moved)
}
