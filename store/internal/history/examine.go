package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/postgres"
)

// How far numbers are raised beyond the greatest ones that were seen. That is more than can be
// given between two looks at the database: an instance looks at the sequence of user ids each
// second, and at the epochs every ten seconds.
const (
	epochGap  = 512
	userIDGap = 100_000
	startGap  = 1000
)

// vary returns a random number from gap to twice the gap. So numbers differ, most likely, from those
// that were given after another restore of the same backup.
func vary(gap int64) int64 { return gap + rand.Int64N(gap+1) }

// examine examines a history before its connections are used.
func (k *Keeper) examine(ctx context.Context, conn *pgx.Conn, change postgres.HistoryChange) error {
	x := examination{lockClass: k.o.LockClass, seen: k.o.Seen.numbers(), known: k.known(), change: change}
	marker, err := x.run(ctx, conn)
	if err != nil {
		postgres.Rollback(conn)
		return fmt.Errorf("examining the history of the database: %w", err)
	}
	if x.known != "" && marker != x.known || x.raised != nil && change.From == "" {
		k.report(&x)
	}
	k.o.Seen.raise(x.raised)
	k.note(marker)
	return nil
}

func (k *Keeper) known() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.marker
}

// report says what an examination has found.
func (k *Keeper) report(x *examination) {
	k.o.Changes.Inc()
	if x.isForbidden {
		k.o.Log.Error("sequences not moved on: the database user may not set them, so ids of users may be given again")
	}
	fields := []zap.Field{zap.String("was", x.change.From), zap.String("is", x.change.To), zap.Bool("raised", x.raised != nil)}
	if !x.hasLost() {
		k.o.Log.Warn("another server or a restored backup is the database; all partitions are claimed again", fields...)
		return
	}
	k.mu.Lock()
	k.lost = time.Now()
	k.mu.Unlock()
	k.o.Losses.Inc()
	k.o.Log.Error("database has lost commits", append(fields, zap.Int("changes", x.lostChanges), zap.Int("leases", x.lostEpochs),
		zap.Bool("user_ids", x.userID < x.seen.userID), zap.Bool("log_is_shorter", x.change.Behind))...)
}

// An examination is that of one history, in one transaction.
type examination struct {
	lockClass int
	seen      numbers
	known     string // the marker that was known before, "" if none was
	change    postgres.HistoryChange

	// What the database has.
	agreed        bool   // the cluster has parameters, and so the column history
	marker        string // "" is NULL
	userID, start int64  // the last ones
	lostEpochs    int    // partitions with an epoch that is lower than was seen
	lostChanges   int    // partitions whose last change is not in the log

	raised      map[int]int64 // the epochs by partition; nil: they were not raised
	isForbidden bool          // to set a sequence, although it had to be raised
}

// run examines the history and raises the numbers if that is needed. It returns the marker.
func (x *examination) run(ctx context.Context, conn *pgx.Conn) (marker string, err error) {
	batch := new(pgx.Batch)
	x.queueRead(batch)
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return "", err
	}
	batch, end := new(pgx.Batch), "commit"
	switch marker = newMarker(x.change.To); {
	case !x.agreed:
		marker, end = "", "rollback"
	case x.mustRaise():
		x.queueRaise(batch)
		queueMarker(batch, marker)
	case x.marker == "":
		queueMarker(batch, marker)
	default:
		marker, end = x.marker, "rollback"
	}
	batch.Queue(end)
	return marker, conn.SendBatch(ctx, batch).Close()
}

func queueMarker(batch *pgx.Batch, marker string) {
	batch.Queue("UPDATE ident_cluster SET history = $1", marker)
}

// hasLost reports whether the database lacks commits that this process has seen.
func (x *examination) hasLost() bool {
	return x.lostChanges > 0 || x.areNumbersBehind() || x.change.Behind
}

// areNumbersBehind reports whether numbers would be given that this process has seen.
func (x *examination) areNumbersBehind() bool {
	return x.lostEpochs > 0 || x.userID < x.seen.userID || x.start < x.seen.start
}

// mustRaise reports whether the numbers may be those of another history, and no instance has
// raised them yet.
func (x *examination) mustRaise() bool {
	switch {
	case x.areNumbersBehind():
		return true
	case x.marker == "":
		return x.known != ""
	default:
		return idOf(x.marker) != x.change.To || x.change.Behind && x.marker == x.known
	}
}

// lockMarker lets one examination at a time raise numbers. The statements after it see what the
// one before has done.
const lockMarker = "SELECT coalesce(history, '') FROM ident_cluster FOR UPDATE"

const lastNumbers = `SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('users', 'id')::regclass), 0),
	coalesce(pg_sequence_last_value('ident_starts'), 0)`

const lostEpochs = `SELECT count(*) FROM unnest($1::int[], $2::bigint[]) AS s (partition, epoch)
	WHERE coalesce((SELECT p.epoch FROM ident_partitions p WHERE p.partition = s.partition), 0) < s.epoch`

// lostChanges counts the changes that are not in the log. A change that was dropped with its day
// is not lost.
const lostChanges = `SELECT count(*) FROM unnest($1::int[], $2::bigint[], $3::timestamptz[]) AS c (partition, position, at)
	WHERE c.position > coalesce((SELECT p.pruned FROM ident_partitions p WHERE p.partition = c.partition), 0)
		AND (SELECT l.position FROM ident_log l WHERE l.at = c.at AND l.partition = c.partition AND l.position = c.position) IS NULL`

// queueRead begins the transaction and reads what the database has.
func (x *examination) queueRead(batch *pgx.Batch) {
	batch.Queue("begin isolation level read committed")
	batch.Queue(lockMarker).Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&x.marker}, func() error {
			x.agreed = true
			return nil
		})
		return err
	})
	one := func(sql string, to []any, args ...any) {
		batch.Queue(sql, args...).QueryRow(func(row pgx.Row) error { return row.Scan(to...) })
	}
	one(lastNumbers, []any{&x.userID, &x.start})
	one(lostEpochs, []any{&x.lostEpochs}, x.seen.partitions, x.seen.epochs)
	one(lostChanges, []any{&x.lostChanges}, x.seen.changed, x.seen.positions, x.seen.at)
}

const (
	lockPartitions = `SELECT pg_advisory_xact_lock($1, partition)
		FROM (SELECT partition FROM ident_partitions ORDER BY partition OFFSET 0) AS all_partitions`

	// raisedEpoch is the epoch that a partition gets. s has the epochs that were seen.
	raisedEpoch = "least(greatest(p.epoch, s.epoch) + $3, $4)"

	// noteLost notes the positions that no change has: those after the last one of the log. A
	// change that is older than two days and was not notified counts as lost too.
	noteLost = `INSERT INTO ident_lost (partition, after, before)
		SELECT p.partition, greatest(p.notified, p.pruned, (SELECT l.position FROM ident_log l
				WHERE l.partition = p.partition AND l.position > p.notified AND l.at >= now() - interval '2 days' ORDER BY l.position DESC LIMIT 1)),
			(` + raisedEpoch + `) << $5::int
		FROM ident_partitions p LEFT JOIN unnest($1::int[], $2::bigint[]) AS s (partition, epoch) ON s.partition = p.partition
		ON CONFLICT DO NOTHING`

	raiseEpochs = `UPDATE ident_partitions p SET epoch = ` + raisedEpoch + `
		FROM ident_partitions q LEFT JOIN unnest($1::int[], $2::bigint[]) AS s (partition, epoch) ON s.partition = q.partition
		WHERE p.partition = q.partition RETURNING p.partition, p.epoch`

	raiseUserIDs = `SELECT setval(n.sequence, least(greatest(pg_sequence_last_value(n.sequence), $1::bigint) + $2::bigint, s.seqmax))
		FROM (SELECT pg_get_serial_sequence('users', 'id')::regclass AS sequence) AS n, pg_sequence s
		WHERE s.seqrelid = n.sequence AND has_sequence_privilege(n.sequence, 'UPDATE')`

	raiseStarts = `SELECT setval('ident_starts', greatest(pg_sequence_last_value('ident_starts'), $1::bigint) + $2::bigint)
		WHERE has_sequence_privilege('ident_starts', 'UPDATE')`
)

// queueRaise raises all numbers. As a claim does, it waits for the transactions of writes: there
// may be some if an instance has examined the history before.
func (x *examination) queueRaise(batch *pgx.Batch) {
	// A commit that waited for a standby would hold the locks of all partitions, and what is
	// committed after it waits for a standby that has this too. One without it has the old marker.
	batch.Queue("SET LOCAL synchronous_commit = local")
	batch.Queue(lockPartitions, x.lockClass)
	epochs := []any{x.seen.partitions, x.seen.epochs, vary(epochGap), int64(changelog.MaxEpoch)}
	batch.Queue(noteLost, append(epochs, changelog.EpochBits)...)
	x.raised = make(map[int]int64)
	batch.Queue(raiseEpochs, epochs...).Query(func(rows pgx.Rows) error {
		var partition int
		var epoch int64
		_, err := pgx.ForEachRow(rows, []any{&partition, &epoch}, func() error {
			x.raised[partition] = epoch
			return nil
		})
		return err
	})
	one := func(sql string, seen, gap int64) {
		batch.Queue(sql, seen, gap).Query(func(rows pgx.Rows) error {
			if !rows.Next() {
				x.isForbidden = true
			}
			return rows.Err()
		})
	}
	one(raiseUserIDs, x.seen.userID, vary(userIDGap))
	one(raiseStarts, x.seen.start, vary(startGap))
}
