package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/postgres"
)

// NextStart returns a number that is greater than all that it has returned before, to any
// caller.
func (s *Store) NextStart(ctx context.Context) (start int64, err error) {
	err = s.pool.Retry(ctx, func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, "SELECT nextval('ident_starts')").Scan(&start)
	})
	if err != nil {
		return 0, postgres.LogError(ctx, s.log, "reading the number of a start", err)
	}
	s.seen.Start(start)
	return start, nil
}

// A ParametersError says that the settings of an instance are for another cluster than the
// one in the database.
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

const selectParameters = "SELECT first, partitions, queue_type, table_version FROM ident_cluster"

// EnsureParameters stores the parameters of the cluster if the database has none yet, and fills
// the epoch table. If the database has other parameters, the error is a *ParametersError. But after a
// repartition the database alone says how many partitions there are, and what type their queues have.
func (s *Store) EnsureParameters(ctx context.Context, ours ownership.Parameters) error {
	var theirs ownership.Parameters
	err := s.pool.Retry(ctx, func(ctx context.Context) error {
		// The second statement sees rows that the first one has waited for.
		batch := new(pgx.Batch)
		batch.Queue(`WITH first AS (
				INSERT INTO ident_cluster (partitions, queue_type, table_version) VALUES ($1, $2, $3)
				ON CONFLICT DO NOTHING RETURNING partitions)
			INSERT INTO ident_partitions (partition, epoch, released)
			SELECT p, 0, true FROM first, generate_series(0, first.partitions - 1) AS p
			ON CONFLICT DO NOTHING`, ours.Partitions, ours.QueueType, ours.Table)
		batch.Queue(selectParameters).QueryRow(func(row pgx.Row) error {
			return row.Scan(&theirs.First, &theirs.Partitions, &theirs.QueueType, &theirs.Table)
		})
		return s.pool.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return postgres.LogError(ctx, s.log, "storing the parameters of the cluster", err)
	}
	if theirs.First > 0 {
		ours.First, ours.Partitions, ours.QueueType = theirs.First, theirs.Partitions, theirs.QueueType
	}
	if theirs != ours {
		return &ParametersError{Theirs: theirs, Ours: ours}
	}
	if err := s.keeper.Record(ctx); err != nil {
		return postgres.LogError(ctx, s.log, "recording the history of the database", err)
	}
	return nil
}

// Parameters returns the parameters of the cluster, the zero value if the database has none yet.
func (s *Store) Parameters(ctx context.Context) (p ownership.Parameters, err error) {
	err = s.pool.Retry(ctx, func(ctx context.Context) error {
		err := s.pool.QueryRow(ctx, selectParameters).Scan(&p.First, &p.Partitions, &p.QueueType, &p.Table)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return p, postgres.LogError(ctx, s.log, "reading the parameters of the cluster", err)
	}
	return p, nil
}

// rebindLock is the key of the advisory lock on rebinding the partitions' queues: "idenx"
// in ASCII.
const rebindLock = 0x6964656e78

// TryRebind calls rebind, unless it has succeeded in any instance less than minAge ago or
// another instance is calling it. TryRebind reports whether rebind was called and
// succeeded. EnsureParameters must have been called before. TryRebind uses a connection of
// the pool during rebind.
func (s *Store) TryRebind(ctx context.Context, minAge time.Duration, rebind func(ctx context.Context) error) (done bool, err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	unlock, err := postgres.TryLock(ctx, conn.Conn(), rebindLock, s.log)
	if err != nil {
		return false, fmt.Errorf("locking the rebinding of queues: %w", err)
	}
	if unlock == nil {
		return false, nil
	}
	defer unlock()
	var due bool
	if err := conn.QueryRow(ctx, "SELECT coalesce(rebound_at <= now() - $1::interval, true) FROM ident_cluster", minAge).Scan(&due); err != nil {
		return false, fmt.Errorf("reading when queues were last rebound: %w", err)
	}
	if !due {
		return false, nil
	}
	if err := rebind(ctx); err != nil {
		return false, err
	}
	if _, err := conn.Exec(ctx, "UPDATE ident_cluster SET rebound_at = now()"); err != nil {
		return false, fmt.Errorf("recording that queues were rebound: %w", err)
	}
	return true, nil
}

// SetNotificationSink sets what receives each notification after its commit. Without a
// sink (nil) notifications stay in the database, where ReadNotifications finds them.
func (s *Store) SetNotificationSink(sink actor.NotificationSink) { s.outbox.SetSink(sink) }

// SetNotificationCheck sets the function that reports whether a notification of so many
// bytes can be sent. A write whose notification cannot is refused. Without the function
// (nil) there is no limit. The function may block, but shortly: a transaction is open
// meanwhile.
func (s *Store) SetNotificationCheck(fits func(bytes int) bool) {
	s.committer.SetNotificationCheck(fits)
}

// ReadNotifications returns the first notifications of a partition with positions above after
// that may not be confirmed, by position: at most limit, fewer if they are large. more says
// whether there may be others. A page is of one moment: it leaves out nothing that was committed
// before one that it has, and that may not be confirmed. A notification that no key decrypts has
// no body.
//
// If the caller holds the partition and has committed nothing to it yet, repeated calls
// return everything that is not confirmed: no earlier holder can add to it any more.
func (s *Store) ReadNotifications(ctx context.Context, partition int, after int64, limit int) (page []actor.PendingNotification, more bool, err error) {
	return s.outbox.Page(ctx, partition, after, limit)
}

// Survey returns the epoch table by partition. A partition that was never held is released,
// and its holder is the zero member.
func (s *Store) Survey(ctx context.Context) ([]ownership.Row, error) { return s.leases.Survey(ctx) }

// Claim carries out claims. It returns for each, in their order, an [ownership.Claimed], an
// [ownership.ClaimRefused] or, if the partition has no epoch left, an [ownership.ClaimFailed]. After an error the outcome of all claims is unknown. Claim
// takes 5 s at most.
//
// If a claim deposes a holder that is frozen or cut off in the middle of a transaction,
// Claim terminates that holder's connections. Claims that depose nobody are committed
// before and do not wait.
func (s *Store) Claim(ctx context.Context, claims []ownership.Claim) ([]ownership.Event, error) {
	return s.leases.Claim(ctx, claims)
}

// TakeOver returns those of the leases that by holds, with what was notified, in one round trip.
func (s *Store) TakeOver(ctx context.Context, by ownership.Member, wanted []partition.Lease) ([]actor.TakenOver, error) {
	return s.leases.TakeOver(ctx, by, wanted)
}

// EndedLeases returns those of the leases, all of one member, that have ended, in one round trip.
// It does not try again, and does not log errors.
func (s *Store) EndedLeases(ctx context.Context, all []partition.Lease) (ended []partition.Lease, err error) {
	return s.leases.Ended(ctx, all)
}

// Release marks the partitions of these leases as free, unless the lease is lost. It also
// notes which notifications are confirmed, so that the next holder does not find them. It
// takes 5 s at most and may be repeated after an error.
func (s *Store) Release(ctx context.Context, released []partition.Lease) error {
	return s.leases.Release(ctx, released)
}

// HandOver ends leases under which nothing is written any more. Each goes to its member To
// under the next epoch, or is released if To is the zero member. HandOver answers each
// hand-over, in their order. To is zero in the answer if the lease has ended in another
// way. If another transaction is in the way, all leases are released.
//
// HandOver also notes which notifications are confirmed, so that the next holder does not find
// them. It takes 5 s at most and may be repeated after an error.
func (s *Store) HandOver(ctx context.Context, all []ownership.HandOver) ([]ownership.HandedOver, error) {
	return s.leases.HandOver(ctx, all)
}

// WatchForeignWrites calls changed(true) when it would notice each write of another program
// to the users and has noticed none for 30 s. It calls changed(false) when it notices one,
// which is soon after its commit, when it cannot notice them any more, and when ctx is
// done. Each call has another argument than the call before. Nothing that this process has
// cached is to be trusted before the first call.
//
// It has its own connection and makes another one when that is lost. It returns when ctx is
// done, which must be before Close. If the store has fewer than 4 connections in all, it
// calls nothing.
func (s *Store) WatchForeignWrites(ctx context.Context, changed func(bool)) {
	if s.foreign == nil {
		<-ctx.Done()
		return
	}
	s.foreign.Watch(ctx, changed)
}

// lossShownFor is how long a problem is shown after commits were found to be lost.
const lossShownFor = time.Hour

// Problems describes what is wrong with the database although it can be used.
func (s *Store) Problems() (all []string) {
	if at := s.keeper.Lost(); !at.IsZero() && time.Since(at) < lossShownFor {
		all = append(all, fmt.Sprintf("the database has lost commits, which was noticed at %s: a standby that lacked them was promoted, or a backup was restored",
			at.UTC().Format(time.RFC3339)))
	}
	if d := s.pool.WaitingForStandby(); d > 0 {
		all = append(all, fmt.Sprintf("commits have been waiting for a synchronous standby for %v", d.Round(time.Second)))
	}
	return all
}

// OnHistoryChange has changed called when another server, or a restored backup, has become the
// database: all leases have ended then. changed must not block.
func (s *Store) OnHistoryChange(changed func()) {
	s.keeper.OnChange(func() {
		s.days.Forget()
		changed()
	})
}
